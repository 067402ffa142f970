# What a credential costs in the dispatcher: a call with it, less the same call of the bare function. The two rows of an
# access key, and the token of an external issuer that is known, beside a session's. One backend, warm.

use strict;
use warnings;

use Bench;
use Bench::Sql;
use Bench::System;

my ($key, $external);

# Made once; the issuer's keys are our own, so that the database itself can make its tokens.
sub make_credentials
{
	my ($person) = people;
	$key = keelson->sql("select (keelson.access_key_create('$person->{id}', 'Bench', '{usage.write}')).key");
	keelson->sql("select keelson.issuer_add('https://bench.example', '{bench}', convert_from((keelson.jwks_document()).body, 'UTF8'));"
		. "select keelson.external_identity_link('$person->{id}', 'https://bench.example', 'bench')");
	$external = keelson->sql("select keelson.jwt_sign(jsonb_build_object('iss', 'https://bench.example', 'aud', 'bench', "
		. "'sub', 'bench', 'exp', extract(epoch from now())::bigint + 86400))");
	return;
}

measure('credential', sub {
	return unless wanted('credential');
	make_credentials() unless defined $key;
	my $bare = microseconds('bench.nothing()::text', 20_000);
	my %us;
	for my $kind ([ session => (people)[0]{token}, 'nothing' ], [ access_key => $key, 'scoped' ], [ external => $external, 'nothing' ])
	{
		my ($name, $credential, $endpoint) = @$kind;
		my $caller = q{'{"ip":"127.0.0.1","requestId":"0194e0a0-0000-7000-8000-000000000000","scheme":"http","via":"bearer"}'::json};
		$us{$name} = microseconds('keelson.dispatch(' . route("GET bench/$endpoint") . ", '$credential', null, null, $caller)", 20_000);
		return unless defined $us{$name} && defined $bare;
		keep("credential.$name.keelson", unit => 'us', value => $us{$name} - $bare);
	}
	cost('dispatcher with an access key over a session, µs', $us{access_key} - $us{session});
	cost('dispatcher with an external token over a session, µs', $us{external} - $us{session});
});

1;
