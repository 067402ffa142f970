# The API's own description: valid, complete, and true of what is answered.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('openapi');
my $gateway = $keelson->gateway(KEELSON_PUBLIC_URL => 'http://127.0.0.1:8080');
my $reply = $gateway->get('/api/openapi.json');
is($reply->{status}, 200, '/api/openapi.json') or die $reply->{content};
like($reply->{headers}{'content-type'}, qr{^application/json}, 'is JSON');
my $core = $reply->{json};
like($core->{openapi}, qr/^3\.1\./, 'of version 3.1, without the envelope');
is($gateway->get('/api/openapi.json', text => 1)->{content}, $reply->{content}, 'twice the same to the byte');

subtest 'who has it is not sent it again' => sub {
	my $tag = $reply->{headers}{etag};
	# A strong one would say that both forms are the same bytes.
	like($tag, qr{^W/"\w+"$}, 'it has a weak tag');
	for my $coding ('identity', 'gzip')
	{
		my $get = sub { return $gateway->get('/api/openapi.json', headers => { 'Accept-Encoding' => $coding, @_ }) };
		my $whole = $get->();
		is($whole->{headers}{'content-encoding'} // 'identity', $coding, $coding);
		is($whole->{headers}{etag}, $tag, "$coding: has the tag");
		for my $has ($tag, $tag =~ s{^W/}{}r, "\"x\" , $tag", '*')
		{
			my $none = $get->('If-None-Match' => $has);
			is("$none->{status} $none->{content}", '304 ', "$coding: not sent to who has $has");
			is_deeply([ @{ $none->{headers} }{qw(etag vary cache-control)} ], [ @{ $whole->{headers} }{qw(etag vary cache-control)} ], "$coding: who has $has is told what the reply would have said");
			is($none->{headers}{'content-encoding'}, undef, "$coding: but of its coding, having no content");
		}
		is($get->('If-None-Match' => 'W/"x"')->{status}, 200, "$coding: sent to who has another");
	}
};

# Every endpoint is there, explained.
for my $route (split /\n/, $keelson->sql("select lower(method) || ' ' || template from keelson.effective_routes order by 1"))
{
	my ($method, $template) = split / /, $route;
	(my $path = $template =~ /^\.well-known/ ? "/$template" : "/api/$template") =~ s/:(\w+)/{$1}/g;
	my $operation = $core->{paths}{$path}{$method};
	ok($operation && $operation->{summary} && $operation->{operationId} && $operation->{responses}, "$method $path");
}

# A value that a schema asks for; $known gives values by name.
sub value_for
{
	my ($description, $schema, $name, $known) = @_;
	$schema = $description->{components}{schemas}{$1} if ($schema->{'$ref'} || '') =~ m{schemas/(.*)$};
	return $known->{$name} if exists $known->{$name};
	return $schema->{enum}[0] if $schema->{enum};
	return $schema->{default} if defined $schema->{default};
	my ($type) = ref $schema->{type} ? @{ $schema->{type} } : ($schema->{type} // '');
	return $schema->{minimum} // 1 if $type =~ /integer|number/;
	return JSON::PP::false if $type eq 'boolean';
	return [] if $type eq 'array';
	return {} if $type eq 'object';
	return '0194e0a0-0000-7000-8000-000000000000' if ($schema->{format} || '') eq 'uuid';
	return 'a fine word';
}

my @observed;

# Calls one operation and notes what came back, for the validator.
sub call
{
	my ($description, $path, $method, $known, %options) = @_;
	my $operation = $description->{paths}{$path}{$method};
	my ($target, @query) = ($path);
	for my $parameter (grep { !$_->{'$ref'} } @{ $operation->{parameters} || [] })
	{
		my $value = value_for($description, $parameter->{schema}, $parameter->{name}, $known);
		$value =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ge;
		if ($parameter->{in} eq 'path') { $target =~ s/\{$parameter->{name}\}/$value/; }
		elsif ($parameter->{required} || exists $known->{ $parameter->{name} }) { push @query, "$parameter->{name}=$value"; }
	}
	$target .= '?' . join '&', @query if @query;
	my $content = ($operation->{requestBody} || {})->{content} || {};
	my ($type) = sort keys %$content;
	my %body;
	if (($type || '') =~ /json/)
	{
		my $schema = $content->{$type}{schema};
		my %needed = map { $_ => 1 } @{ $schema->{required} || [] };
		%body = map { $_ => value_for($description, $schema->{properties}{$_}, $_, $known) }
			grep { $needed{$_} || exists $known->{$_} } keys %{ $schema->{properties} };
	}
	my $answer = $gateway->request(uc $method, $target,
		$type && $type =~ /json/ ? (json => { %body, %{ $options{more} || {} } }) : $type ? (body => 'bytes', headers => { 'Content-Type' => $type =~ /\*/ ? 'application/octet-stream' : $type }) : (),
		defined $options{token} ? (token => $options{token}) : ());
	push @observed, { method => $method, path => $path, status => 0 + $answer->{status}, type => $answer->{headers}{'content-type'} // '', body => $answer->{json} };
	return $answer;
}

# Checks what was observed with the description by the validator.
sub validate
{
	my ($name, $text) = @_;
	SKIP: {
		skip 'the npm packages are not there', 2 unless -d "$KeelsonTest::root/regress/node_modules/\@redocly";
		my $file = $keelson->node->basedir . '/openapi.json';
		my $replies = $keelson->node->basedir . '/replies.jsonl';
		open my $out, '>', $file or die $!;
		print $out $text;
		close $out;
		open $out, '>', $replies or die $!;
		print $out json_encode($_), "\n" for @observed;
		close $out;
		my $said = `node '$KeelsonTest::root/regress/openapi/lint.js' '$file' 2>&1`;
		is($?, 0, "$name: the linter has nothing to say") or diag $said;
		$said = `node '$KeelsonTest::root/regress/openapi/validate.js' '$file' < '$replies' 2>&1`;
		is($?, 0, "$name: every reply is as described") or diag $said;
	}
	@observed = ();
	return;
}

# Calls every operation: as it should be, with bad fields, by nobody.
sub call_all
{
	my ($description, $known) = @_;
	# What ends the session comes last.
	my @operations = sort { ($a =~ /logout|DELETE|end/) <=> ($b =~ /logout|DELETE|end/) || $a cmp $b }
		map { my $path = $_; map { uc($_) . " $path" } grep { /^(get|post|put|patch|delete)$/ } keys %{ $description->{paths}{$path} } } keys %{ $description->{paths} };
	for my $name (@operations)
	{
		my ($method, $path) = split / /, $name;
		my $operation = $description->{paths}{$path}{ lc $method };
		my $streams = ($operation->{responses}{200} || {})->{content}{'text/event-stream'};
		next if $streams;
		my $email = $known->{email};
		local $known->{email} = 'somebody-' . @observed . '@example.com' if $path =~ /register/;
		my $answer = call($description, $path, lc $method, $known, token => $known->{token});
		# What may not be there (a picture, a page for developers) says so in its description.
		my $may_miss = $path =~ /\{/ || $operation->{responses}{404};
		ok($answer->{status} && $answer->{status} < 500 && ($answer->{status} != 404 || $may_miss), "$name answers $answer->{status}") or diag $answer->{content};
		call($description, $path, lc $method, $known, more => { nonsense => 1 }) if $operation->{requestBody};
		call($description, $path, lc $method, $known);
	}
	return;
}

my $user = $keelson->user($gateway);
call_all($core, { email => $user->{email}, password => $user->{password}, token => $user->{token}, name => 'Ada' });
validate('the core', $reply->{content});

my %usage = %{ $core->{components}{schemas}{UsageEvent} };
is_deeply($usage{required}, [qw(feature minutes)], 'of what is given only what may not be null is required');
is_deeply($core->{components}{schemas}{UsageReceipt}{required}, [qw(accepted duplicates)], 'a reply has all that it has');

# The same of a product's endpoints, whose types and domains are of all kinds.
$keelson->product;
wait_until(sub { $gateway->get('/api/product/items/first')->{status} == 200 });
my $text = $gateway->get('/api/openapi.json', text => 1)->{content};
my $whole = json_decode($text);
my $echo = $whole->{paths}{'/api/product/echo'}{post}{requestBody}{content}{'application/json'}{schema};
is($whole->{components}{schemas}{ProductColour}{description}, 'must be red, green or blue', 'a domain speaks its comment');
is_deeply($whole->{components}{schemas}{ProductColour}{enum}, [qw(red green blue)], 'and has its list');
is_deeply([ @{ $whole->{components}{schemas}{ProductShortName} }{qw(minLength maxLength)} ], [ 2, 20 ], 'or its length');
is($echo->{additionalProperties}, JSON::PP::false, 'unknown names are refused');
is($echo->{required}, undef, 'what has a default is not required');
is_deeply($whole->{paths}{'/api/product/notes'}{post}{requestBody}{content}{'application/json'}{schema}{required}, ['text'], 'what has none is');
my ($row_limit) = grep { ($_->{name} || '') eq 'limit' } @{ $whole->{paths}{'/api/product/items'}{get}{parameters} };
is($row_limit->{schema}{default}, 20, 'a default is told');
ok($whole->{paths}{'/api/product/fail'}{post}{responses}{409}, 'an error of the product\'s own');
is_deeply($whole->{paths}{'/api/product/echo'}{post}{security}, [], 'public');
is_deeply($whole->{paths}{'/api/product/administer'}{get}{security}[0], { bearer => ['users.write'] }, 'or with the permission that is asked');
$user = $keelson->user($gateway);
call_all($whole, { email => $user->{email}, password => $user->{password}, token => $user->{token}, name => 'Ada', text => 'a text', how => 'teapot',
	size => 10, count => 3, seconds => 0, colour => 'red', target => $user->{id}, onDay => '2025-01-15', atTime => '2025-01-15T00:00:00Z' });
validate('with a product', $text);

subtest 'it is kept, and never out of date' => sub {
	my $ask = sub {
		my $got = $gateway->get('/api/openapi.json');
		return ($got->{headers}{etag}, json_decode($got->{content}));
	};
	my ($tag, $last) = $ask->();
	my $greeting = sub { $_[0]{paths}{'/api/product/greet'}{get} };
	my $note = sub { $_[0]{components}{schemas}{ProductNote} };
	$keelson->sql(q{
		create type product.note as (text text, at timestamptz);
		create function product.greet(colour product.colour default 'red') returns product.note language plpgsql as $$ begin return null; end $$;
		comment on function product.greet(product.colour) is 'Greet.';
		grant execute on function product.greet(product.colour) to keelson_app;
		select keelson.route('GET product/greet', 'product.greet', is_public => true)});
	for my $change (
		[ 'a route', 'select 1', sub { $greeting->($_[0])->{summary} eq 'Greet' } ],
		[ 'a comment', q{comment on type product.note is 'what is said'}, sub { $note->($_[0])->{description} eq 'what is said' } ],
		[ 'what a route says of itself', q{select keelson.route('GET product/greet', 'product.greet', is_public => true, description => 'Greet them.')}, sub { $greeting->($_[0])->{summary} eq 'Greet them' } ],
		[ 'a column', 'alter type product.note add attribute tone text', sub { $note->($_[0])->{properties}{tone} } ],
		[ 'its comment', q{comment on column product.note.tone is 'of voice'}, sub { $note->($_[0])->{properties}{tone}{description} eq 'of voice' } ],
		[ q{a domain's check}, q{alter domain product.colour add constraint colour_length check (char_length(value) <= 5)}, sub { $_[0]{components}{schemas}{ProductColour}{maxLength} == 5 } ],
		[ 'a type', 'create type product.tone as enum (\'high\', \'low\'); alter type product.note alter attribute tone type product.tone', sub { "@{ $_[0]{components}{schemas}{ProductTone}{enum} }" eq 'high low' } ],
		[ 'a value of it', q{alter type product.tone add value 'flat'}, sub { "@{ $_[0]{components}{schemas}{ProductTone}{enum} }" eq 'high low flat' } ],
		[ 'a default', q{create or replace function product.greet(colour product.colour default 'blue') returns product.note language plpgsql as 'begin return null;end'},
			sub { $greeting->($_[0])->{parameters}[0]{schema}{default} eq 'blue' } ],
		[ q{an operator's word}, q{select keelson.route_override('GET product/greet', deprecated_at => now())}, sub { $greeting->($_[0])->{deprecated} } ],
		[ 'a name', 'alter type product.note rename to remark', sub { $_[0]{components}{schemas}{ProductRemark} } ],
		[ 'an address', q{alter system set keelson.public_url = 'https://api.example.com'; select pg_reload_conf()}, sub { $_[0]{servers}[0]{url} eq 'https://api.example.com' }, 'later' ],
		[ 'its loss', 'delete from keelson.openapi_kept', sub { $greeting->($_[0]) }, 'same' ],
		[ 'a route that goes', q{select keelson.route_remove('GET product/greet')}, sub { !$greeting->($_[0]) } ])
	{
		my ($name, $statements, $shows, $how) = @$change;
		$keelson->sql($_) for split /; /, $statements;
		wait_until(sub { ($ask->())[0] ne $tag }) if ($how // '') eq 'later';
		my ($new_tag, $new) = $ask->();
		ok($shows->($new), $name);
		(($how // '') eq 'same' ? \&is : \&isnt)->($new_tag, $tag, "$name: the tag");
		$tag = $new_tag;
	}
	my $written = q{select xmin from keelson.openapi_kept};
	my $before = $keelson->sql($written);
	$ask->() for 1 .. 3;
	is($keelson->sql($written), $before, 'it is not made again for nothing');
	is($keelson->sql(q{select count(*) from pg_roles as r cross join unnest('{insert,update,delete,truncate}'::text[]) as verb
		where rolname ~ '^keelson_' and rolname not in ('keelson_owner', 'keelson_system') and has_table_privilege(r.oid, 'keelson.openapi_kept', verb)}),
		0, 'no other role writes what is kept');
};

subtest 'the page' => sub {
	my $page = $gateway->get('/api/docs');
	is($page->{status}, 200, 'there');
	like($page->{headers}{'content-type'}, qr{^text/html}, 'as HTML');
	my @outside = $page->{content} =~ m{(?:src|href)="((?!/api/|data:)[^"#]*)"}g;
	is_deeply(\@outside, [], 'nothing from outside');
	unlike($page->{content}, qr/<script(?![^>]*src=)|<style|\son\w+=/i, 'nothing inline');
	for my $asset ($page->{content} =~ m{(?:src|href)="(/api/docs/[^"]+)"}g)
	{
		my $got = $gateway->get($asset);
		is($got->{status}, 200, $asset);
		unlike($got->{content}, qr{https?://(?!example)}, "$asset names no host");
	}
};

done_testing();
$keelson->stop;
