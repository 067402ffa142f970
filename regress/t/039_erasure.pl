# What is exported of a user, and that nothing is left of one who is erased: markers in every column that can hold
# text, of every table that has a column user_id, are looked for in the export and in a dump of the whole database.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('erasure');
my $gateway = $keelson->gateway;
my ($victim, $other) = map { $keelson->user($gateway, email => "$_\@erasure.example.com") } qw(victim other);
my %agent = ('User-Agent' => 'planted-victim-agent');

# The export is an array by itself, so that it can be read as it comes.
sub data { return $_[0]{json} }

sub dump_of
{
	my $file = $keelson->node->basedir . '/dump.sql';
	system($ENV{KEELSON_TEST_BINDIR} . '/pg_dump', '-h', $keelson->node->host, '-p', $keelson->node->port, '-f', $file, 'keelson') == 0
		or BAIL_OUT('pg_dump failed');
	my $dump = slurp($file);
	# What encode() has broken into lines is whole again beside it.
	(my $joined = $dump) =~ s/\\n//g;
	return $dump . $joined;
}

# Is it there, as text, as hexadecimal, or as base64 of either alphabet?
sub holds
{
	my ($dump, $marker) = @_;
	return scalar grep { index($dump, $_) >= 0 } $marker, unpack('H*', $marker), uc unpack('H*', $marker), KeelsonTest::base64_forms($marker);
}

# A product has a table too, and lets the core see to its users' data.
$keelson->sql(q{
	create schema app;
	grant usage on schema app to keelson_system;
	create table app.notes (user_id uuid not null, id uuid not null default keelson.uuid7(), body text not null, api_secret text, primary key (user_id, id));
	create table app.note_parts (user_id uuid not null, note_id uuid not null, part text not null, foreign key (user_id, note_id) references app.notes (user_id, id));
	create table app.unseen (user_id uuid not null, body text);
	create table app.wrapped (body text);
	grant select, delete on app.notes, app.note_parts to keelson_system;
});

# What the two do by themselves.
for my $user ($victim, $other)
{
	my %as = (token => $user->{token});
	$gateway->put('/api/user/profile', { name => "Name of $user->{email}" }, %as, headers => { 'Idempotency-Key' => 'one', ($user == $victim ? %agent : ()) });
	$gateway->put('/api/user/profile', { email => "new-$user->{email}", currentPassword => $user->{password} }, %as, headers => { $user == $victim ? %agent : () });
	$gateway->get('/api/user/export', %as, headers => { $user == $victim ? %agent : () });
	$keelson->sql("insert into app.notes (user_id, body) select '$user->{id}', 'note ' || n from generate_series(1, 50) as n");
	$keelson->sql("insert into app.note_parts select user_id, id, 'part' from app.notes where user_id = '$user->{id}'");
}
$keelson->sql(slurp("$KeelsonTest::root/regress/lib/plant.sql"));
$keelson->sql("select regress_plant.plant('$_->[0]', '$_->[1]')") for [ 'victim', $victim->{id} ], [ 'other', $other->{id} ];
my %markers;
push @{ $markers{ (split /\|/)[0] } }, (split /\|/)[1] for split /\n/, $keelson->sql('select who, marker from regress_plant.markers order by 1, 2');
$keelson->sql('truncate regress_plant.markers');
my @tables = map { [ split /\|/ ] } split /\n/, $keelson->sql('select relation, is_exported, is_erased from keelson.user_data_tables()');

subtest 'what is planted is there' => sub {
	my $dump = dump_of();
	cmp_ok(scalar @{ $markers{$_} }, '>', 30, "many markers of $_") for qw(victim other);
	for my $who (qw(victim other))
	{
		is_deeply([ grep { !holds($dump, $_) } @{ $markers{$who} } ], [], "all of $who\'s are in the dump");
	}
	is_deeply([ map { $_->[0] } grep { $_->[2] ne 't' } @tables ], [ 'app.unseen', 'keelson.audit_events' ], 'what is not erased is known');
};

subtest 'in disguise' => sub {
	for my $form (q{encode('xxplanted-disguisexx', 'hex')}, q{upper(encode('planted-disguise', 'hex'))}, (map { qq{encode('} . 'x' x $_ . q{planted-disguise', 'base64')} } 0 .. 2),
		q{encode(convert_to(repeat('y', 50) || 'planted-disguise', 'UTF8'), 'base64')}, q{translate(encode('planted-disguise?>', 'base64'), '+/=', '-_')})
	{
		ok(!holds(dump_of(), 'planted-disguise'), 'nothing');
		$keelson->sql("insert into app.wrapped values ($form)");
		ok(holds(dump_of(), 'planted-disguise'), "$form is found");
		$keelson->sql('truncate app.wrapped');
	}
};

subtest 'the export' => sub {
	my $reply = $gateway->get('/api/user/export', token => $victim->{token});
	is($reply->{status}, 200, 'exported') or diag substr $reply->{content}, 0, 1000;
	my %seen = map { $_->{table} => 1 } @{ data($reply) };
	my @wanted = map { (my $name = $_->[0]) =~ s/^keelson\.//; $name } grep { $_->[1] eq 't' } @tables;
	is_deeply([ grep { !$seen{$_} } @wanted ], [], 'every table of users is in it, but those that a rule hides');
	cmp_ok(scalar @wanted, '>', 10, 'many');
	is(index($reply->{content}, 'planted-other'), -1, "nothing of the other's");
	is(index($reply->{content}, $other->{id}), -1, 'not even the id');
	unlike($reply->{content}, qr/other\@erasure/, 'nor the address');
	unlike($reply->{content}, qr/planted-victim-keelson\.passwords\.hash|planted-victim-keelson\.user_keys|planted-victim-app\.notes\.api_secret|argon2id/, 'no secrets');
	unlike($reply->{content}, qr/planted-victim-keelson\.legal_holds/, 'no note of a court');
	for my $marker (@{ $markers{victim} })
	{
		next unless $marker =~ /^planted-victim-(app\.notes\.body|keelson\.(users\.(name|email|preferences)|email_changes\.\w+_email|sessions\.user_agent))$/;
		cmp_ok(index($reply->{content}, $marker), '>=', 0, "$marker is in it");
	}
	my ($event) = grep { $_->{table} eq 'audit_events' && ($_->{data}{personal}{userAgent} || '') eq 'planted-victim-agent' } @{ data($reply) };
	ok($event, 'sealed fields are opened');
	my ($avatar) = grep { $_->{table} eq 'avatars' } @{ data($reply) };
	like($avatar->{data}{image}, qr/^[A-Za-z0-9+\/=]+$/, 'the picture in base64');
	like($avatar->{data}{updatedAt}, qr/^\d{4}-\d\d-\d\dT.*Z$/, 'times as everywhere');
	is($gateway->get('/api/user/export')->{status}, 401, 'nobody has none');
	is($keelson->sql("select count(*) > 0 from keelson.audit_events where user_id = '$victim->{id}' and event_type = 'user.export'"), 't', 'it is recorded');
};

subtest 'erasure' => sub {
	$keelson->sql('delete from keelson.legal_holds');
	$markers{$_} = [ grep { !/legal_holds/ } @{ $markers{$_} } ] for qw(victim other);
	my $count = sub { return $keelson->sql(join ' union all ', map { "select '$_->[0]', count(*) from $_->[0] where "
				. ($_->[0] eq 'keelson.users' ? 'id' : 'user_id') . " = '$other->{id}'" } @tables); };
	is($keelson->sql('select keelson.users_erase()'), 0, 'nobody is deleted');
	$keelson->sql("begin; select keelson.admin_user_delete('$victim->{id}'); commit");
	my $before = $count->();
	is($keelson->sql("select keelson.users_erase(moment => now() + interval '29 days')"), 0, 'not before the time is over');
	$keelson->sql("select keelson.legal_hold_place('$victim->{id}', 'a letter of the court')");
	is($keelson->sql("select keelson.users_erase(moment => now() + interval '31 days')"), 0, 'not while it is held back');
	$keelson->sql("select keelson.legal_hold_release('$victim->{id}')");
	my ($calls, $rows) = (0, 0);
	while ((my $some = $keelson->sql("select keelson.users_erase(7, now() + interval '31 days')")) > 0)
	{
		cmp_ok($some, '<=', 7, 'so many at most') if ++$calls == 1;
		$rows += $some;
		if ($calls == 2)
		{
			is($keelson->sql("select count(*) from keelson.user_keys where user_id = '$victim->{id}'"), 0, 'the keys go first');
			like(($keelson->try_sql("select keelson.admin_user_restore('$victim->{id}')"))[2], qr/no such user/, 'there is no way back');
		}
		last if $calls > 200;
	}
	cmp_ok($calls, '>', 10, "in $calls batches");
	cmp_ok($rows, '>', 100, "$rows rows");
	is($count->(), $before, 'nobody else has lost anything');
	my $dump = dump_of();
	is_deeply([ grep { holds($dump, $_) && !/app\.unseen/ } @{ $markers{victim} } ], [], 'nothing that was planted is left');
	is_deeply([ grep { holds($dump, $_) } grep { /app\.unseen/ } @{ $markers{victim} } ], ['planted-victim-app.unseen.body'],
		'but where the product lets nobody');
	ok(!holds($dump, $_), "$_ is nowhere") for 'planted-victim-agent', 'victim@erasure', 'Name of victim', $victim->{refresh};
	is_deeply([ grep { !holds($dump, $_) } @{ $markers{other} } ], [], "all of the other's is there");
	is($keelson->sql("select count(*) filter (where address_hash is not null), bool_or(event_type = 'user.erase') from keelson.audit_events where user_id = '$victim->{id}'"),
		'0|t', 'the trail has no address of theirs, and says that they were erased');
	is($keelson->sql("select count(*) from keelson.audit_events as e where user_id = '$victim->{id}' and keelson._audit_open(user_id, id, personal) is not null"), 0,
		'what was sealed of them does not open');
	is($gateway->post('/api/auth/register', { email => 'new-victim@erasure.example.com', password => 'correct horse battery staple' })->{status}, 201, 'the address is free');
	my $problems = $keelson->sql('select count(*) from keelson.audit_verify()');
	is($problems, 0, 'the trail stands') or diag $keelson->sql('select * from keelson.audit_verify()');
};

subtest 'the nightly job' => sub {
	$keelson->sql("select keelson.admin_user_delete('$other->{id}')");
	$keelson->sql("update keelson.users set deleted_at = now() - interval '31 days' where id = '$other->{id}'");
	$keelson->sql("call keelson.job_run('erasure')");
	is($keelson->sql("select outcome, (counts ->> 'users')::int > 20 from keelson.job_runs where job = 'erasure' order by id desc limit 1"), 'success|t', 'ran and counted');
	my $dump = dump_of();
	is_deeply([ grep { holds($dump, $_) && !/app\.unseen/ } @{ $markers{other} } ], [], 'nothing of the other is left either');
};

done_testing();
