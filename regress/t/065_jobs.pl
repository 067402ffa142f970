# Jobs through HTTP and pg_cron: never twice at once, a crash shows, what was missed shows.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $secret = 'the-secret-of-the-schedule';
my $keelson = KeelsonTest->new('jobs', preload => 'pg_cron,keelson',
	conf => "cron.database_name = 'keelson'\ncron.use_background_workers = off");
my $node = $keelson->node;
my $gateway = $keelson->gateway;
$keelson->sql("select keelson.secret_set('cron_secret', '$secret')");

# A request with the cron secret, or another.
sub cron
{
	my ($method, $path, $token) = @_;
	return $gateway->request($method, $path, headers => { Authorization => 'Bearer ' . ($token // $secret) });
}

subtest 'the cron endpoints' => sub {
	for my $method (qw(POST GET))
	{
		my $reply = cron($method, '/api/cron/cleanup-database');
		is($reply->{status}, 200, "$method cleanup-database");
		is_deeply([ sort keys %{ $reply->{json}{data}{results} } ],
			[qw(auditLogs passwordResetTokens processedWebhooks rateLimits resolvedFailedWebhooks)], 'all counts are told');
		is(cron($method, '/api/cron/expire-trials')->{json}{data}{results}{trials}, 0, 'no trials');
		is(cron($method, '/api/cron/retry-failed-webhooks')->{json}{data}{results}{retried}, 0, 'no webhooks');
	}
	is($keelson->sql(q{select count(*) from keelson.job_runs where cause = 'request' and outcome = 'success'}), 6, 'each is on record');
	is(cron('POST', '/api/cron/cleanup-database', 'another')->{status}, 401, 'another secret is refused');
	my $user = $keelson->user($gateway);
	is(cron('POST', '/api/cron/cleanup-database', $user->{token})->{status}, 403, 'and so is a user');
	$keelson->sql(q{create schema behind; grant usage on schema behind to keelson_app;
		create function behind.run() returns keelson.job_results language sql as 'select keelson.cron_cleanup_database()';
		comment on function behind.run() is 'Clean up.';
		grant execute on function behind.run() to keelson_app;
		select keelson.route('POST behind', 'behind.run', is_public => true)});
	ok(wait_until(sub { $gateway->post('/api/behind', {})->{status} != 404 }), 'an endpoint of a product\'s');
	is($gateway->post('/api/behind', {}, token => $user->{token})->{status}, 403, 'is no way around the secret');
	is($gateway->get('/api/admin/jobs', token => $user->{token})->{status}, 403, 'who does not see jobs');
	$keelson->sql("select keelson.role_grant('$user->{email}', 'support')");
	my $jobs = $gateway->get('/api/admin/jobs', token => $user->{token})->{json}{data};
	my ($cleanup) = grep { $_->{name} eq 'cleanup-database' } @$jobs;
	is($cleanup->{schedule}, '0 2 * * *', 'support does');
	is($cleanup->{lastRun}{outcome}, 'success', 'with the last run');
	like($cleanup->{nextRunAt}, qr/T02:00:00/, 'and the next');
	my $page = $gateway->get('/api/admin/jobs/cleanup-database/runs?limit=1', token => $user->{token})->{json};
	is(scalar @{ $page->{data} }, 1, 'runs come by pages');
	my $next = $gateway->get("/api/admin/jobs/cleanup-database/runs?limit=1&cursor=$page->{meta}{pagination}{nextCursor}", token => $user->{token})->{json};
	isnt($next->{data}[0]{id}, $page->{data}[0]{id}, 'one after the other');
	is($next->{meta}{pagination}{nextCursor}, undef, 'to the last');
	is($gateway->get('/api/admin/jobs/none/runs', token => $user->{token})->{status}, 404, 'of jobs that are there');
};

# A job that waits until it is let go.
$keelson->sql(q{
	create schema app;
	grant usage on schema app to keelson_app;
	create table app.gate (is_open boolean);
	insert into app.gate values (false);
	create table app.done (batch integer);
	grant select on app.gate to keelson_app;
	grant insert, select on app.done to keelson_app;
	create function app.wait(batch integer) returns bigint language plpgsql as $$
	begin
		insert into app.done values (batch);
		if (select count(*) from app.done) > 1 then
			while not (select is_open from app.gate) loop
				perform pg_sleep(0.01);
			end loop;
			return 0;
		end if;
		return batch;
	end
	$$;
	select keelson.job('wait', '0 0 1 1 *', 'Wait.', function => 'app.wait', batch => 5);
});

subtest 'never twice at once' => sub {
	my $first = $node->background_psql('keelson', on_error_stop => 1);
	$first->query_until(qr/begun/, "\\echo begun\ncall keelson.job_run('wait');\n");
	ok(wait_until(sub { $keelson->sql(q{select batches from keelson.job_runs where job = 'wait'}) eq '1' }),
		'the start and the first batch are committed while it runs');
	is($keelson->sql(q{select last_outcome, last_counts from keelson.jobs where name = 'wait'}), 'running|{"done": 5}', 'it is seen to run');
	my (undef, undef, $said) = $keelson->try_sql(q{call keelson.job_run('wait')});
	like($said, qr/is running already/, 'another is told so');
	$keelson->sql('update app.gate set is_open = true');
	ok(wait_until(sub { $keelson->sql(q{select last_outcome from keelson.jobs where name = 'wait'}) eq 'success' }), 'it ends');
	$first->quit;
	is($keelson->sql(q{select count(*) from keelson.job_runs where job = 'wait'}), 1, 'there was one run');
};

subtest 'a crash shows' => sub {
	$keelson->sql('update app.gate set is_open = false; truncate app.done');
	my $victim = $node->background_psql('keelson', on_error_stop => 0);
	$victim->query_until(qr/begun/, "\\echo begun\ncall keelson.job_run('wait');\n");
	ok(wait_until(sub { $keelson->sql(q{select last_outcome, last_counts from keelson.jobs where name = 'wait'}) eq 'running|{"done": 5}' }), 'a run is half done');
	my $pid = $keelson->sql(q{select pid from pg_stat_activity where query ~ '^call keelson.job_run'});
	ok($keelson->kill_process($pid), 'its process is killed and the server comes back');
	ok(wait_until(sub { my ($status, $out) = $keelson->try_sql(q{select last_outcome, last_counts from keelson.jobs where name = 'wait'}); $status == 0 && $out eq 'crashed|{"done": 5}' }), 'the run has crashed, after one batch');
	is($keelson->sql('select count(*) from app.done'), 1, 'which is there');
	like($keelson->sql('select keelson._jobs_health()'), qr/"failed": \["wait"\]/, 'health says so');
	$keelson->sql('update app.gate set is_open = true');
	$keelson->sql(q{call keelson.job_run('wait')});
	is($keelson->sql(q{select last_outcome from keelson.jobs where name = 'wait'}), 'success', 'the next run is not held up');
	is($keelson->sql(q{select outcome from keelson.job_runs where job = 'wait' order by id desc offset 1 limit 1}), 'crashed', 'and the crash stays on record');
	$gateway->wait_ready;
	my $metrics = $gateway->get('/metrics')->{content};
	like($metrics, qr/^keelson_job_runs_total\{job="wait",outcome="crashed"\} 1$/m, 'and is counted');
	like($metrics, qr/^keelson_job_missed\{job="cleanup-database"\} 0$/m, 'nothing was missed');
};

subtest 'a request that does not wait' => sub {
	# The job goes on in its process when whoever asked is gone.
	$keelson->sql(q{update app.gate set is_open = false; truncate app.done; select keelson.job_step('retry-failed-webhooks', 'waits', 'app.wait')});
	my ($status) = $keelson->try_sql(q{set statement_timeout = '500ms'; select keelson._job_request('retry-failed-webhooks')});
	isnt($status, 0, 'its time is over');
	is($keelson->sql(q{select last_outcome from keelson.jobs where name = 'retry-failed-webhooks'}), 'running', 'the job runs');
	# The gateway's connections that the crash took answer 503 once.
	ok(wait_until(sub { cron('POST', '/api/cron/retry-failed-webhooks')->{status} == 409 }), 'and is not run twice');
	$keelson->sql('update app.gate set is_open = true');
	ok(wait_until(sub { $keelson->sql(q{select last_outcome from keelson.jobs where name = 'retry-failed-webhooks'}) eq 'success' }), 'to its end');
	$keelson->sql(q{delete from keelson.job_steps where name = 'waits'});
	# One that fails is the server's fault, and says nothing from inside.
	$keelson->sql(q{create function app.fail(batch integer) returns bigint language plpgsql as $$ begin raise exception 'inside'; end $$;
		select keelson.job_step('retry-failed-webhooks', 'fails', 'app.fail')});
	my $reply = cron('POST', '/api/cron/retry-failed-webhooks');
	is($reply->{status}, 500, 'a failing job is a 500');
	unlike($reply->{content}, qr/inside/, 'that tells nothing');
	like($keelson->server_log, qr/job "retry-failed-webhooks", step "fails": inside/, 'but to the log');
};

subtest 'pg_cron' => sub {
	$keelson->sql('create extension pg_cron');
	is($keelson->sql(q{select count(*) from keelson.jobs where is_scheduled}), 0, 'nothing is scheduled by itself');
	$keelson->sql(q{select keelson.job_override('wait', '* * * * *'); select keelson.jobs_install()});
	is($keelson->sql(q{select count(*) from keelson.jobs where not is_scheduled}), 0, 'now everything is');
	my $here = q{select count(*) from cron.job where nodename = current_setting('cron.host') and nodeport = current_setting('port')::integer};
	my $all = $keelson->sql($here);
	$keelson->sql(q{update cron.job set nodename = '/elsewhere' where jobname = 'keelson wait'; update cron.job set nodeport = 1 where jobname = 'keelson erasure'});
	is($keelson->sql(q{select string_agg(job, ' ' order by job) from keelson.jobs_install() where state = 'changed'}), 'erasure wait', 'what is to run elsewhere, as after a restore');
	is($keelson->sql($here), $all, 'runs here again');
	# The launcher's own way: a connection of keelson_jobs runs the command that is in pg_cron's table.
	my $command = $keelson->sql(q{select command from cron.job where jobname = 'keelson wait'});
	my ($status, undef, $said) = $keelson->try_sql($command, role => 'keelson_jobs');
	is($status, 0, 'as keelson_jobs its command works') or diag($said);
	is($keelson->sql(q{select last_cause from keelson.jobs where name = 'wait'}), 'schedule', 'and is known for what it is');
	SKIP: {
		skip 'pg_cron runs once a minute: KEELSON_TEST_CRON=1 waits for it', 1 unless $ENV{KEELSON_TEST_CRON};
		my $before = $keelson->sql(q{select count(*) from keelson.job_runs where job = 'wait'});
		ok(wait_until(sub { $keelson->sql(q{select count(*) from keelson.job_runs where job = 'wait' and outcome = 'success'}) > $before }, 90), 'by itself too');
	}
};

subtest 'without pg_cron' => sub {
	$keelson->sql('drop extension pg_cron');
	my (undef, undef, $said) = $keelson->try_sql('select keelson.jobs_install()');
	like($said, qr/pg_cron is not in this database/, 'jobs_install() says what is missing');
	like($said, qr/cron\.database_name = 'keelson'/, 'and what to do');
	$keelson->sql(q{call keelson.job_run('cleanup-database')});
	is($keelson->sql(q{select last_outcome from keelson.jobs where name = 'cleanup-database'}), 'success', 'jobs work');
	is($gateway->get('/health/detailed')->{status}, 200, 'and so does health');
};

done_testing();
