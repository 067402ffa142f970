# Tiers and quotas through HTTP: what a tier opens, when a change holds, and that a hard quota is exact however many
# take of it at once.

use strict;
use warnings;

use KeelsonTest;
use KeelsonTest::Sink;
use Test::More;

my $keelson = KeelsonTest->new('tiers', limits => 1, conf => join "\n", 'max_connections = 260', 'superuser_reserved_connections = 3', 'keelson.environment = development', 'keelson.allow_private_targets = on');
my $gateway = $keelson->gateway(KEELSON_RATE_LIMITS => 'on');
$keelson->sql("update keelson.rate_limits set max_requests = 1000 where rate_class <> 'general'");
$keelson->sql(q{
	create schema app;
	grant usage on schema app to keelson_app;
	create function app.export() returns text language plpgsql as $$ begin return 'rows'; end $$;
	comment on function app.export() is 'Export everything.';
	grant execute on function app.export() to keelson_app;
	select keelson.route('GET export', 'app.export', tier => 'pro');
});

my $eve = $keelson->user($gateway);
my $admin = $keelson->user($gateway);
$keelson->sql("select keelson.role_grant('$admin->{email}', 'admin')");
my $code = $gateway->get('/api/user/profile', token => $eve->{token})->{json}{data}{referral}{code};
my $ada;

sub profile { return $gateway->get('/api/user/profile', token => $ada->{token})->{json}{data}; }

# A change of Ada's tier by an administrator.
sub set_tier
{
	my (%wanted) = @_;
	return $gateway->put("/api/admin/users/$ada->{id}/tier", \%wanted, token => $admin->{token});
}

subtest 'referrals' => sub {
	my %person = (email => 'ada@example.com', password => 'correct horse battery staple');
	my $reply = $gateway->post('/api/auth/register', { %person, referralCode => 'NOSUCHCODE' });
	is($reply->{status}, 400, 'a code that is nobody\'s is refused');
	is($reply->{json}{details}[0]{field}, 'referralCode', 'by name');
	$reply = $gateway->post('/api/auth/register', { %person, referralCode => lc $code });
	is($reply->{status}, 201, 'and the registration with it; with a good one it goes through');
	$ada = { %person, id => $reply->{json}{data}{user}{id}, token => $reply->{json}{data}{accessToken} };
	is($gateway->get('/api/user/profile', token => $eve->{token})->{json}{data}{referral}{redemptions}, 1, 'it counts for whose it is');
	is($gateway->post('/api/user/referral', { referralCode => $code }, token => $ada->{token})->{status}, 409, 'once for each new user');
	is($gateway->post('/api/user/referral', { referralCode => $code }, token => $eve->{token})->{status}, 400, 'and not for oneself');
};

subtest 'the profile and the lists' => sub {
	my $profile = profile();
	is_deeply([ sort keys %$profile ], [qw(memberSince referral subscription user)], 'the profile has its parts');
	is_deeply([ sort keys %{ $profile->{subscription} } ], [qw(minutesLimit minutesUsed periodEnd status tier trial)], 'subscription');
	is($profile->{subscription}{tier}, 'free', 'of the default tier');
	is_deeply($profile->{referral}, { code => $profile->{referral}{code}, redemptions => 0 }, 'referral');
	my $tiers = $gateway->get('/api/tiers')->{json}{data};
	is_deeply([ map { $_->{id} } @$tiers ], [qw(free pro studio)], 'anybody sees the tiers');
	is_deeply($tiers->[1], { id => 'pro', name => 'Pro', minutesLimit => 1000, hardLimit => JSON::PP::false, features => [qw(export webhooks)], limits => { projects => 50 } }, 'as they are');
	is($gateway->get('/api/user/tier')->{status}, 401, 'nobody has none');
	is($gateway->get('/api/user/tier', token => $ada->{token})->{json}{data}{id}, 'free', 'one\'s own');
	my ($minutes) = grep { $_->{unit} eq 'minutes' } @{ $gateway->get('/api/user/quota', token => $ada->{token})->{json}{data} };
	is_deeply($minutes, { unit => 'minutes', feature => undef, limit => 60, used => 0, reserved => 0, remaining => 60, hard => JSON::PP::false, resetAt => $profile->{subscription}{periodEnd} }, 'one\'s quotas');
};

subtest 'what a tier opens, and when' => sub {
	my $reply = $gateway->get('/api/export', token => $ada->{token});
	is($reply->{status}, 403, 'not for the free');
	is($reply->{json}{code}, 'TIER_REQUIRED', 'and why');
	is($gateway->get('/api/export')->{status}, 401, 'nor for nobody');
	is(set_tier(tier => 'pro')->{status}, 200, 'an administrator gives another tier');
	is($gateway->get('/api/export', token => $ada->{token})->{status}, 200, 'which holds for the next request');
	is(set_tier(tier => 'free')->{status}, 200, 'and takes it');
	is($gateway->get('/api/export', token => $ada->{token})->{status}, 403, 'likewise');
	is($gateway->put("/api/admin/users/$ada->{id}/tier", { tier => 'pro' }, token => $ada->{token})->{status}, 403, 'nobody gives it to themselves');
	is(set_tier(tier => 'gold')->{status}, 400, 'there is no such tier');
	is(set_tier()->{status}, 400, 'nor none');
	is(set_tier(tier => 'pro', trialDays => 0)->{status}, 400, 'nor a trial of no days');
	my @faults = map { set_tier(trialDays => 14, %$_)->{json}{details}[0]{field} } { tier => 'pro', atPeriodEnd => JSON::PP::true }, { tier => 'free' };
	is_deeply(\@faults, [qw(atPeriodEnd tier)], 'what does not go with a trial is named as the request names it');
	is($gateway->put('/api/admin/users/00000000-0000-0000-0000-000000000001/tier', { tier => 'pro' }, token => $admin->{token})->{status}, 404, 'nor such a user');
	my ($openapi) = $gateway->get('/api/openapi.json', text => 1)->{content} =~ /(TIER_REQUIRED)/;
	ok($openapi, 'the description names the refusal');
};

subtest 'trials' => sub {
	my $reply = set_tier(tier => 'studio', trialDays => 14);
	is($reply->{json}{data}{status}, 'trialing', 'a trial');
	is(profile()->{subscription}{trial}{endsAt}, $reply->{json}{data}{trial}{endsAt}, 'shows in the profile');
	is($gateway->get('/api/export', token => $ada->{token})->{status}, 200, 'while it lasts');
	$keelson->sql("update keelson.subscriptions set trial_ends_at = now(), next_tier_at = now() where user_id = '$ada->{id}'");
	is($gateway->get('/api/export', token => $ada->{token})->{status}, 403, 'and no longer, before any job has been');
	is_deeply([ @{ profile()->{subscription} }{qw(tier status trial)} ], [ 'free', 'active', undef ], 'in the profile neither');
	$keelson->sql(q{call keelson.job_run('expire-trials')});
	is($keelson->sql("select tier_id, status from keelson.subscriptions where user_id = '$ada->{id}'"), 'free|active', 'the job writes it down');
};

subtest 'rate limits by tier' => sub {
	$keelson->sql(q{select keelson.rate_limit_override('general', 777, tier => 'pro')});
	isnt($gateway->get('/api/auth/me', token => $ada->{token})->{headers}{'x-ratelimit-limit'}, 777, 'the free have the general limit');
	set_tier(tier => 'pro');
	is($gateway->get('/api/auth/me', token => $ada->{token})->{headers}{'x-ratelimit-limit'}, 777, 'the tier\'s own holds for the next request');
	set_tier(tier => 'free');
	isnt($gateway->get('/api/auth/me', token => $ada->{token})->{headers}{'x-ratelimit-limit'}, 777, 'and no longer');
};

# 200 sessions at once take by tenths of what has room for so many; each that succeeds leaves a row.
sub race
{
	my ($name, $statement, $clients) = @_;
	my $script = $keelson->node->basedir . "/$name.sql";
	open my $file, '>', $script or die "$script: $!";
	print $file $statement;
	close $file;
	$keelson->sql('truncate app.won');
	my @command = ('pgbench', '-n', '-c', $clients, '-j', 2, '-t', 3, '-f', $script, '-h', $keelson->node->host, '-p', $keelson->node->port, '-U', getpwuid($<) . '', 'keelson');
	open my $out, '-|', "@command 2>&1" or die "pgbench: $!";
	my $said = join '', <$out>;
	close $out;
	like($said, qr{actually processed: @{[ $clients * 3 ]}/}, "$name: everybody has tried") or diag($said);
	return $keelson->sql('select count(*) from app.won');
}

subtest 'a quota race of 200' => sub {
	$keelson->sql(qq{
		select keelson.tier_set('racer', 'Racer', 500);
		select keelson.tier_limit_set('racer', 'credits', 12.3, is_hard => true);
		select keelson.tier_limit_set('racer', 'minutes', 7.7, is_hard => true);
		select keelson.user_tier_set('$ada->{id}', 'racer');
		create table app.won (at timestamptz default now());
		grant insert, select on app.won to keelson_app;
		create function app.take() returns boolean language plpgsql as \$\$
		begin
			perform keelson.quota_take('credits', 0.1);
			insert into app.won default values;
			return true;
		exception when sqlstate 'KS429' then
			return false;
		end \$\$;
		create function app.hold() returns boolean language plpgsql as \$\$
		begin
			perform keelson.quota_commit(keelson.quota_reserve(0.2, unit => 'credits'), 0.1);
			insert into app.won default values;
			return true;
		exception when sqlstate 'KS429' then
			return false;
		end \$\$;
		create function app.charge() returns boolean language plpgsql as \$\$
		begin
			perform keelson._quota_charge('$ada->{id}', 'speech', 0.1);
			insert into app.won default values;
			return true;
		exception when sqlstate 'KS429' then
			return false;
		end \$\$;
		create function app.record() returns boolean language plpgsql as \$\$
		begin
			perform keelson.usage_record(feature => 'speech', minutes => 0.1, key => gen_random_uuid()::text);
			insert into app.won default values;
			return true;
		exception when sqlstate 'KS429' then
			return false;
		end \$\$;
		create function app.work() returns boolean language plpgsql as \$\$
		begin
			perform keelson.quota_commit(keelson.quota_reserve(0.2, feature => 'speech'), 0.1);
			insert into app.won default values;
			return true;
		exception when sqlstate 'KS429' then
			return false;
		end \$\$;
		grant execute on all functions in schema app to keelson_app;
	});
	my $acting = "begin;\nselect keelson.act_as('$ada->{email}');\n";
	is(race('take', "$acting select app.take();\ncommit;\n", 200), 123, 'as many as fit, of 600');
	is($keelson->sql("select trim_scale(used), trim_scale(reserved) from keelson.quota_counters where user_id = '$ada->{id}' and name = 'credits'"), '12.3|0', 'to the tenth');
	is(race('charge', "select app.charge();\n", 200), 77, 'minutes alike');
	$keelson->sql("delete from keelson.quota_counters where user_id = '$ada->{id}'");
	# Counters begin anew with what is recorded: nothing yet.
	my $minutes = "select trim_scale(sum(e.minutes)), count(*), (select trim_scale(c.used) || ' ' || trim_scale(c.reserved) from keelson.quota_counters as c
		where c.user_id = '$ada->{id}' and c.name = 'minutes'), keelson._usage_minutes('$ada->{id}', null, now() - interval '1 day', now() + interval '1 day') = sum(e.minutes)
		from keelson.usage_events as e where e.user_id = '$ada->{id}'";
	$keelson->sql("delete from keelson.quota_counters where user_id = '$ada->{id}'");
	is(race('record', "$acting select app.record();\ncommit;\n", 200), 77, 'recording itself likewise');
	is($keelson->sql($minutes), '7.7|77|7.7 0|t', 'and what was recorded is what was charged');
	$keelson->sql("delete from keelson.quota_counters where user_id = '$ada->{id}'; select keelson.tier_limit_set('racer', 'minutes', 10, is_hard => true)");
	is(race('work', "$acting select app.work();\ncommit;\n", 200), 22, 'and reservations of minutes, committed with less');
	is($keelson->sql($minutes), '9.9|99|9.9 0|t', 'recorded, charged, and nothing stays held');
	is(race('hold', "$acting select app.hold();\ncommit;\n", 200), 122, 'and reservations: the last tenth is too small for one');
	is($keelson->sql("select trim_scale(used), trim_scale(reserved) from keelson.quota_counters where user_id = '$ada->{id}' and name = 'credits'"), '12.2|0', 'nothing stays held');
};

subtest 'told when a quota is reached' => sub {
	my $sink = KeelsonTest::Sink->new('told');
	my $reply = $gateway->post('/api/webhooks', { url => $sink->url('/told'), events => ['usage.*'] }, token => $ada->{token});
	is($reply->{status}, 201, 'an endpoint') or diag $reply->{content};
	my $take = sub { return $keelson->try_sql("begin; select keelson.act_as('$ada->{email}'); select keelson.quota_take('credits', $_[0]); commit") };
	$keelson->sql("delete from keelson.quota_counters where user_id = '$ada->{id}'");
	$take->(12);
	# What is refused rolls back, and is told all the same, once.
	isnt(($take->(1))[0], 0, 'more than fits is refused') for 1 .. 3;
	ok($sink->wait_for(1, '/told'), 'the user is told');
	my ($told) = map { $_->{data} } map { json_decode($_->{body}) } $sink->requests('/told');
	is_deeply([ @$told{qw(unit limit used hard)} ], [ 'credits', 12.3, 12, JSON::PP::true ], 'of what');
	like($told->{resetAt}, qr/^\d{4}-.*Z$/, 'and until when');
	# A soft one is looked at as usage is folded.
	$keelson->sql("select keelson.tier_limit_remove('racer', 'minutes'); select keelson.tier_limit_set('racer', 'minutes', 20);
		select keelson.usage_record('$ada->{id}', 'speech', 10.2)");
	ok($sink->wait_for(2, '/told'), 'of a soft limit too');
	(undef, $told) = map { $_->{data} } map { json_decode($_->{body}) } $sink->requests('/told');
	is_deeply([ @$told{qw(unit limit used hard)} ], [ 'minutes', 20, 20.1, JSON::PP::false ], 'when it is reached');
	isnt(($take->(1))[0], 0, 'refused once more');
	like($gateway->get('/metrics')->{content}, qr/^keelson_quota_refusals_total [1-9]\d{2,}$/m, 'refusals are counted');
	is($keelson->sql('select count(*) from keelson.webhook_events'), '2', 'and told no more');
	$sink->stop;
};

subtest 'across a crash' => sub {
	# What was taken and committed stays taken; what was not, is not. A reservation survives, too.
	$keelson->sql(qq{delete from keelson.quota_counters where user_id = '$ada->{id}';
		begin; select keelson.act_as('$ada->{email}'); select keelson.quota_take('credits', 3); select keelson.quota_reserve(2, unit => 'credits'); commit;});
	my $victim = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$victim->query_until(qr/taken/, "begin;\nselect keelson.act_as('$ada->{email}');\nselect keelson.quota_take('credits', 5);\n\\echo taken\n");
	my $pid = $keelson->sql(q{select pid from pg_stat_activity where state = 'idle in transaction'});
	ok($keelson->kill_process($pid), 'the server is back');
	is($keelson->sql("select trim_scale(used), trim_scale(reserved) from keelson.quota_counters where user_id = '$ada->{id}' and name = 'credits'"), '3|2', 'the counter is what was committed');
};

done_testing();
