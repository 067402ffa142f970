# Tokens that are none: cut, padded, re-encoded, of another algorithm, type, issuer, key, time. Over HTTP each is
# refused in the same words, and never by a fault of ours.
use strict;
use warnings;

use KeelsonTest;
use MIME::Base64 qw(encode_base64url decode_base64url);
use Test::More;

my $keelson = KeelsonTest->new('tokens');
my $gateway = $keelson->gateway;
my $user = $keelson->user($gateway);
my ($head, $claims, $signature) = split /\./, $user->{token};
my %header = %{ json_decode(decode_base64url($head)) };
my %claim  = %{ json_decode(decode_base64url($claims)) };

sub encoded { return encode_base64url(json_encode($_[0])) }

# A token of our own key with other claims, or another type.
sub signed
{
	my ($changes, $typ) = @_;
	my $json = json_encode({ %claim, %$changes });
	return $keelson->sql(qq{select keelson.jwt_sign(jsonb_strip_nulls('$json'), '} . ($typ // 'at+jwt') . q{')});
}

# The last character of a signature of 64 bytes has four bits that stand for nothing.
sub re_encoded
{
	my @alphabet = ('A' .. 'Z', 'a' .. 'z', 0 .. 9, '-', '_');
	my ($last) = grep { $alphabet[$_] eq substr($signature, -1) } 0 .. 63;
	return "$head.$claims." . substr($signature, 0, -1) . $alphabet[ $last ^ 1 ];
}

my %none = (
	'cut by one'              => substr($user->{token}, 0, -1),
	'cut to half'             => substr($user->{token}, 0, length($user->{token}) / 2),
	'without a signature'     => "$head.$claims.",
	'of two parts'            => "$head.$claims",
	'of four parts'           => "$user->{token}.x",
	'of dots'                 => '..',
	'padded'                  => "$user->{token}=",
	'padded within'           => "$head=.$claims.$signature",
	'longer'                  => "$user->{token}A",
	're-encoded'              => re_encoded(),
	'in the other base64'     => "$head.$claims." . '+' . substr($signature =~ tr{-_}{+/}r, 1),
	'in capitals'             => uc $user->{token},
	'backwards'               => scalar reverse($user->{token}),
	'with a blank'            => "$head. $claims.$signature",
	'signature of zeros'      => "$head.$claims." . encode_base64url("\0" x 64),
	'signature in DER'        => "$head.$claims." . encode_base64url("\x30\x06\x02\x01\x01\x02\x01\x01"),
	'another payload'         => "$head." . encoded({ %claim, sub => '01930000-0000-7000-8000-000000000000' }) . ".$signature",
	'another algorithm: none' => encoded({ %header, alg => 'none' }) . ".$claims.",
	'none, signed'            => encoded({ %header, alg => 'none' }) . ".$claims.$signature",
	'HS256'                   => encoded({ %header, alg => 'HS256' }) . ".$claims.$signature",
	'RS256'                   => encoded({ %header, alg => 'RS256' }) . ".$claims.$signature",
	'es256'                   => encoded({ %header, alg => 'es256' }) . ".$claims.$signature",
	'without an algorithm'    => encoded({ typ => $header{typ}, kid => $header{kid} }) . ".$claims.$signature",
	'another key'             => encoded({ %header, kid => 'x' }) . ".$claims.$signature",
	'a key of its own'        => encoded({ %header, jwk => { kty => 'EC', crv => 'P-256', x => 'A' x 43, y => 'A' x 43 } }) . ".$claims.$signature",
	'keys elsewhere'          => encoded({ %header, jku => 'https://example.com/keys' }) . ".$claims.$signature",
	'critical extensions'     => encoded({ %header, crit => ['b64'], b64 => JSON::PP::false }) . ".$claims.$signature",
	'head twice'              => encode_base64url('{"alg":"ES256","alg":"none"}') . ".$claims.$signature",
	'head no object'          => encode_base64url('[]') . ".$claims.$signature",
	'head no JSON'            => encode_base64url('{"alg"') . ".$claims.$signature",
	'deep'                    => encode_base64url('{"a":' . '[' x 40 . ']' x 40 . '}') . ".$claims.$signature",
	'not UTF-8'               => encode_base64url("{\"alg\":\"\xff\xfe\"}") . ".$claims.$signature",
	'over 8 KiB'              => "$head." . 'A' x 9000 . ".$signature",
	'of another type'         => signed({}, 'JWT'),
	'of another issuer'       => signed({ iss => 'https://issuer.example.com' }),
	'for another audience'    => signed({ aud => 'https://other.example.com' }),
	'not yet valid'           => signed({ nbf => time() + 3600 }),
	'of the future'           => signed({ iat => time() + 3600 }),
	'of no session'           => signed({ sid => undef }),
	'of a session unknown'    => signed({ sid => '01930000-0000-7000-8000-000000000000' }),
	'of a user unknown'       => signed({ sub => '01930000-0000-7000-8000-000000000000' }),
	'of a user by name'       => signed({ sub => 'ada' }),
	'of a user with braces'   => signed({ sub => "{$claim{sub}}" }),
	'a refresh token'         => $user->{refresh},
	'a word'                  => 'nonsense',
	'a number'                => '1',
	'quotes'                  => q{'";--},
);

is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 200, 'the token itself is good');
is($gateway->get('/api/auth/me', token => signed({}))->{status}, 200, 'and so is one that is signed like it');

subtest 'refused alike' => sub {
	my $words = { %{ $gateway->get('/api/auth/me', token => 'x.y.z')->{json} }, meta => undef };
	for my $what (sort keys %none)
	{
		my $reply = $gateway->get('/api/auth/me', token => $none{$what});
		is($reply->{status}, 401, "$what: 401") or diag $reply->{content};
		is_deeply({ %{ $reply->{json} || {} }, meta => undef }, $words, "$what: the same words");
		is($gateway->get('/api/auth/status', token => $none{$what})->{json}{data}{authenticated}, JSON::PP::false, "$what: nobody");
	}
};

# Published signatures of all kinds, good and bad (Wycheproof): none is a token of ours, nor is one of ours under its head.
subtest 'published vectors' => sub {
	my $file = ($ENV{VECTORS} // '') . '/wycheproof/json_web_signature_test.json';
	plan skip_all => 'no VECTORS' unless $ENV{VECTORS} && -e $file;
	my $words = json_encode({ %{ $gateway->get('/api/auth/me', token => 'x.y.z')->{json} }, meta => undef });
	my (%seen, @wrong);
	for my $test (map { @{ $_->{tests} } } @{ json_decode(slurp($file))->{testGroups} })
	{
		my ($their_head, @rest) = split /\./, $test->{jws}, -1;
		my %tokens = (whole => $test->{jws}, head => "$their_head.$claims.$signature", tail => join('.', $head, @rest), signature => "$head.$claims." . ($rest[-1] // ''));
		for my $part (sort keys %tokens)
		{
			my $reply = $gateway->get('/api/auth/me', token => $tokens{$part});
			# What is no header field at all does not get as far as being a token.
			$seen{ $reply->{status} }++;
			push @wrong, "$test->{tcId} $part: $reply->{status} $reply->{content}"
				unless $reply->{status} == 401 && json_encode({ %{ $reply->{json} }, meta => undef }) eq $words
				|| $reply->{status} == 400 && $reply->{json}{code} eq 'BAD_REQUEST';
		}
	}
	is_deeply(\@wrong, [], 'each is refused, in the same words') or diag explain \%seen;
	cmp_ok($seen{401} // 0, '>', 1500, 'many');
	is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 200, 'the token itself is good still');
};

subtest 'expired' => sub {
	my $expired = signed({ exp => time() - 60, iat => time() - 960 });
	my $reply = $gateway->get('/api/auth/me', token => $expired);
	is($reply->{status}, 401, 'refused');
	is($reply->{json}{code}, 'TOKEN_EXPIRED', 'by its code, so that the client refreshes');
	is($gateway->get('/api/auth/me', token => signed({ exp => time() - 1 }))->{status}, 401, 'from the second on');
	is($gateway->get('/api/auth/me', token => signed({ nbf => time() - 1 }))->{status}, 200, 'a time before is good');
	is($gateway->get('/api/auth/me', token => signed({ nbf => 'x' }))->{status}, 401, 'what is no time is not');
};

subtest 'where a token does not belong' => sub {
	is($gateway->get("/api/auth/me?accessToken=$user->{token}")->{status}, 401, 'not in the query');
	is($gateway->get('/api/auth/me', headers => { Authorization => "Basic $user->{token}" })->{status}, 401, 'not as Basic');
	is($gateway->get('/api/auth/me', headers => { Authorization => $user->{token} })->{status}, 401, 'not by itself');
	is($gateway->get('/api/auth/me', headers => { Authorization => "bearer $user->{token}" })->{status}, 200, 'the scheme in small letters will do');
	is($gateway->get('/api/auth/me', headers => { Cookie => "ks_access=$user->{token}" })->{status}, 401, 'not in a cookie of another name');
};

subtest 'refresh tokens' => sub {
	my $token = $user->{refresh};
	my $refresh = sub { return $gateway->post('/api/auth/refresh', { refreshToken => $_[0] }) };
	my %bad = (
		cut => substr($token, 0, -1), longer => "${token}A", padded => "$token=", capitals => uc $token,
		'of a device' => $token =~ s/^ksr_/ksd_/r, bare => substr($token, 4), access => $user->{token}, blank => " $token",
		'another generation' => substr($token, 0, 48) . ($token =~ /^.{48}A/ ? 'B' : 'A') . substr($token, 49), zeros => 'ksr_' . 'A' x 96);
	for my $what (sort keys %bad)
	{
		my $reply = $refresh->($bad{$what});
		is($reply->{status}, 401, "$what: 401") or diag $reply->{content};
		is($reply->{json}{code}, 'UNAUTHENTICATED', "$what: by its code");
	}
	is($refresh->({})->{status}, 400, 'an object is none');
	is($refresh->($token)->{status}, 200, 'the token itself is good still');
};

# Whatever goes in comes out, and a token that differs by a bit is none.
subtest 'round trip' => sub {
	my $wrong = $keelson->sql(q{
		select count(*)
		from generate_series(1, 200) as n,
			lateral (select gen_random_uuid() as user_id, gen_random_uuid() as session_id, (n % 3 + 1)::smallint as aal, 60 + n as lifetime) as given,
			lateral (select keelson._access_token(given.user_id, given.session_id, given.aal, given.lifetime) as token) as made,
			keelson._access_token_verify(made.token) as got
		where (got.state, got.user_id, got.session_id, got.aal::integer) is distinct from ('valid', given.user_id, given.session_id, given.aal::integer)
			or got.expires_at - clock_timestamp() not between (given.lifetime - 30) * interval '1 second' and given.lifetime * interval '1 second'});
	is($wrong, 0, '200 tokens say what they were made of');
	my $accepted = $keelson->sql(qq{
		select count(*)
		from generate_series(1, length('$user->{token}')) as n,
			lateral (select overlay('$user->{token}' placing other from n for 1) as token from unnest(array['A', 'q', '.', '=', '-', '_']) as other) as changed
		where changed.token <> '$user->{token}' and (keelson._access_token_verify(changed.token)).state = 'valid'});
	is($accepted, 0, 'none of those that differ in a character is good');
	is($keelson->sql(q{
		select count(*)
		from generate_series(1, 100) as n,
			lateral (select jsonb_build_object('exp', 4102444800, 'n', n, 'text', repeat(U&'\00e9\+01F600"\\\\', n % 7), 'list', jsonb_build_array(n, null, n % 2 = 0)) as claims) as given
		where keelson.jwt_verify(keelson.jwt_sign(given.claims)) @> given.claims is not true}), 0, 'claims of every shape come back');
};

unlike($keelson->server_log, qr/PANIC|TRAP|terminated by signal/, 'the server has taken no harm');
done_testing();
