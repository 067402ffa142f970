# keelson.migrate() beside requests, and beside who holds a table: it waits for them, and is in no deadlock.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('migrate');
my $gateway = $keelson->gateway;
my $user = $keelson->user($gateway);

sub deadlocks { return $keelson->sql(q{select deadlocks from pg_stat_database where datname = 'keelson'}); }

# Sends the statement in a session of its own, which goes on by itself.
sub begun
{
	my ($statement) = @_;
	my $session = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$session->query_until(qr/begun/, "\\echo begun\n$statement\n");
	return $session;
}

# How often the waiting migration has let go again of all that it had.
sub has_let_go
{
	return $keelson->sql(q{select count(*) from pg_stat_activity as a
		where query ~ '^select keelson.migrate' and wait_event = 'PgSleep'
			and not exists (select from pg_locks as l where l.pid = a.pid and l.mode = 'AccessExclusiveLock')});
}

subtest 'nothing to do' => sub {
	my $holder = $keelson->node->background_psql('keelson', on_error_stop => 1);
	# Whoever wanted all tables would wait for these until the time is over.
	$holder->query_safe('begin; lock table keelson.users in row exclusive mode; lock table keelson.routes in access share mode');
	is($keelson->sql(q{set statement_timeout = '60s'; begin; select count(*) from keelson.migrate();
		select count(*) from pg_locks where pid = pg_backend_pid() and mode <> 'AccessShareLock' and locktype = 'relation'; commit}), "0\n0", 'nobody is waited for, and no table is locked');
	$holder->query_safe('rollback');
	$holder->quit;
	is($keelson->sql('drop policy own_select on keelson.avatars; select count(*) from keelson.migrate(anew => true); select count(*) from pg_policy where polname = \'own_select\' and polrelid = \'keelson.avatars\'::regclass'), "0\n1", 'anew, what is missing is made');
};

subtest 'somebody holds a table and wants others' => sub {
	my $before = deadlocks();
	my $holder = $keelson->node->background_psql('keelson', on_error_stop => 1);
	$holder->query_safe('begin; lock table keelson.users in row exclusive mode');
	my $migration = begun('select keelson.migrate(anew => true) as applied; \\echo finished');
	ok(wait_until(sub { has_let_go() }), 'a migration tries, and holds nothing between two tries');
	is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 200, 'requests are answered meanwhile');
	my $gets = eval { $holder->query_safe("lock table keelson.$_ in row exclusive mode") for qw(deliveries audit_events sessions routes user_emails); 1 };
	ok($gets, 'who holds the one table gets them all') or diag $@;
	$holder->query_safe('commit');
	$migration->query_until(qr/finished/, '');
	$_->quit for $holder, $migration;
	is($keelson->server_log =~ /deadlock detected/, '', 'without a deadlock');
	is(deadlocks(), $before, 'of which none is counted');
};

subtest 'a request that runs' => sub {
	my $holder = $keelson->node->background_psql('keelson', on_error_stop => 1);
	$holder->query_safe(q{begin; select count(*) from keelson.dispatch((select id from keelson.routes where template = 'auth/status'), null, null, null, '{}')});
	my $migration = begun('select keelson.migrate(anew => true) as applied; \\echo finished');
	ok(wait_until(sub { has_let_go() }), 'is waited for');
	is($keelson->sql(q{select string_agg(distinct c.relname, ',') from pg_locks as l join pg_class as c on c.oid = l.relation
		where l.granted and l.mode = 'AccessExclusiveLock' and c.relnamespace = 'keelson'::regnamespace}), '', 'no other table is locked');
	$holder->query_safe('commit');
	like($migration->query_until(qr/finished/, ''), qr/finished/, 'and the migration follows it');
	$_->quit for $holder, $migration;
};

subtest 'an index of what is written all the time' => sub {
	my $has = sub {
		my ($day) = @_;
		return $keelson->sql("select count(*) from pg_index where indrelid = to_regclass('keelson.deliveries_log_' || to_char(($day) at time zone 'UTC', 'YYYYMMDD'))
			and pg_get_indexdef(indexrelid) ~ 'user_id, lane, id.* WHERE .state <> ''delivered'''");
	};
	is($has->('now()'), 1, 'new databases have it');
	$keelson->sql(q{drop index keelson.deliveries_log_undelivered_idx; delete from keelson.migrations where capability = 'webhooks' and number = 3});
	is($keelson->sql(q{select number from keelson.migrate() where capability = 'webhooks'}), 3, 'one of an earlier version is migrated');
	is($has->("now() $_->[0]"), $_->[1], "the day now() $_->[0]: $_->[1]") for [ "- interval '1 day'", 0 ], [ '', 0 ], [ "+ interval '1 day'", 1 ], [ "+ interval '7 days'", 1 ];
	is($keelson->sql(q{select keelson.deliveries_partitions_make(8)}), 2, 'the next day comes');
	is($has->("now() + interval '8 days'"), 1, 'and has it too');
};

subtest 'all kinds of requests at once' => sub {
	my @users = map { $keelson->user($gateway) } 1 .. 4;
	my $load = $gateway->load(4, sub {
		my ($number, $count) = @_;
		my $me = $users[ $number - 1 ];
		my @ways = (
			sub { $gateway->put('/api/user/profile', { name => "Name $count" }, token => $me->{token}) },
			sub { $gateway->get('/api/auth/sessions', token => $me->{token}) },
			sub { $gateway->post('/api/auth/login', { email => $me->{email}, password => $me->{password} }) },
			sub { $gateway->get('/api/auth/me', token => $me->{token}) },
			sub { $gateway->post('/api/auth/register', { email => "load-$number-$count\@example.com", password => $me->{password} }) });
		return $ways[ ($number + $count) % @ways ]->()->{status};
	});
	my $before = deadlocks();
	for my $round (1 .. 3)
	{
		my $answered = scalar $load->lines;
		ok(wait_until(sub { $load->lines > $answered + 8 }, 60), "round $round: under load");
		my ($status, undef, $messages) = $keelson->try_sql('select keelson.migrate(anew => true)');
		is($status, 0, 'the migration is made') or diag $messages;
	}
	my %seen;
	$seen{$_}++ for $load->stop;
	# On a slow machine it takes longer than a request waits for a connection.
	like(join(' ', sort keys %seen), qr/^200 201(?: 503)?$/, 'no request fails');
	is(deadlocks(), $before, 'there was no deadlock');
};

done_testing();
$keelson->stop;
