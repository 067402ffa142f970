# The server dies in the midst of an erasure, again and again: it goes on where it was, and nobody sees what is half erased.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('erasure_crash');
my $gateway = $keelson->gateway;
my ($victim, $other, $admin) = map { $keelson->user($gateway, email => "$_\@erasure.example.com") } qw(victim other admin);
$keelson->sql("select keelson.role_grant('$admin->{id}', 'admin')");
$gateway->put('/api/user/profile', { name => 'Name of ' . ($_ == $victim ? 'victim' : 'other') }, token => $_->{token}) for $victim, $other;
$keelson->sql(slurp("$KeelsonTest::root/regress/lib/plant.sql"));
for my $round (1 .. 40)
{
	# Rows enough for many batches.
	$keelson->sql("select keelson.audit('user.update', '{}', 'success', id) from keelson.users where id in ('$victim->{id}', '$other->{id}')");
}
$keelson->sql("select regress_plant.plant('$_->[0]', '$_->[1]')") for [ 'victim', $victim->{id} ], [ 'other', $other->{id} ];
my %markers;
push @{ $markers{ (split /\|/)[0] } }, (split /\|/)[1] for split /\n/,
	$keelson->sql("select who, marker from regress_plant.markers where relation <> 'keelson.legal_holds' order by 1, 2");
$keelson->sql('truncate regress_plant.markers; delete from keelson.legal_holds');
my @tables = split /\n/, $keelson->sql("select relation from keelson.user_data_tables() where is_erased and relation <> 'keelson.users'");

sub rows_of
{
	my ($user) = @_;
	return $keelson->sql('select ' . join(' + ', map { "(select count(*) from $_ where user_id = '$user->{id}')" } @tables));
}

$keelson->sql("select keelson.admin_user_delete('$victim->{id}')");
my ($mine, $others) = map { rows_of($_) } $victim, $other;
cmp_ok($mine, '>', 40, 'rows enough');

# Erases a few rows a transaction, until it is killed in one or between two.
sub erase_and_die
{
	my ($left) = @_;
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		exec 'psql', '-XqAt', '-d', $keelson->node->connstr('keelson'), '-c',
			q{set application_name = eraser}, '-c', q{do $$ begin loop perform keelson.users_erase(2, now() + interval '31 days'); commit; perform pg_sleep(0.005); end loop; end $$}
			or POSIX::_exit(127);
	}
	my $backend;
	ok(wait_until(sub { $backend ||= $keelson->sql("select pid from pg_stat_activity where application_name = 'eraser'"); $backend && rows_of($victim) <= $left }, 30), "down to $left rows");
	my $is_back = $keelson->kill_process($backend);
	waitpid $pid, 0;
	return ok($is_back, 'the server is back after a crash');
}

for my $left (map { int($mine * $_ / 5) } 4, 3, 2, 1)
{
	erase_and_die($left);
	wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 20);
	is($keelson->sql("select count(*) from keelson.user_keys where user_id = '$victim->{id}'"), 0, 'what was sealed is gone for good');
	is($gateway->get("/api/admin/users/$victim->{id}", token => $admin->{token})->{status}, 404, 'administrators see nobody');
	is_deeply($gateway->get('/api/admin/users?status=deleted', token => $admin->{token})->{json}{data}, [], 'nor in the list');
	is($gateway->post("/api/admin/users/$victim->{id}/restore", {}, token => $admin->{token})->{status}, 404, 'nor can bring them back');
	my $login;
	wait_until(sub { ($login = $gateway->post('/api/auth/login', { email => $victim->{email}, password => $victim->{password} }))->{status} != 503 }, 20);
	is($login->{status}, 401, 'nobody logs in');
	is($gateway->get('/api/user/export', token => $victim->{token})->{status}, 401, 'and no session reads the rest');
	is(rows_of($other), $others, 'nobody else has lost a row');
}

$keelson->sql("select keelson.users_erase(100, now() + interval '31 days')") for 1 .. 20;
is(rows_of($victim), 0, 'called again, it comes to an end');
is($keelson->sql("select count(*) from keelson.users where id = '$victim->{id}'"), 0, 'with the user');
is($keelson->sql("select count(*) from keelson.audit_events where user_id = '$victim->{id}' and event_type = 'user.erase'"), 1, 'recorded once');
is(rows_of($other), $others, 'nobody else has lost a row');

my $file = $keelson->node->basedir . '/dump.sql';
system('pg_dump', '-d', $keelson->node->connstr('keelson'), '-f', $file) == 0 or BAIL_OUT('pg_dump failed');
my $dump = slurp($file);
my $holds = sub { my ($marker) = @_; return grep { index($dump, $_) >= 0 } $marker, unpack('H*', $marker), KeelsonTest::base64_forms($marker) };
is_deeply([ grep { $holds->($_) } @{ $markers{victim} }, 'victim@erasure', 'Name of victim' ], [], 'nothing of theirs is left');
is_deeply([ grep { !$holds->($_) } @{ $markers{other} } ], [], "all of the other's is");
is($keelson->sql('select count(*) from keelson.audit_verify()'), 0, 'the trail stands');

$keelson->stop;
done_testing();
