# What must hold when the faults are over and the load has ended: what was told against what is there. Each check is a test
# with its numbers, which stand in the report.

package Torture::Invariants;

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_base64);
use KeelsonTest;
use MIME::Base64 qw(decode_base64);
use Test::More;
use Time::HiRes qw(sleep time);

sub check
{
	my ($run) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	read_journals($run);
	settle($run);
	replies($run);
	accounts($run);
	usage_and_quotas($run);
	orders($run);
	deliveries($run);
	incoming($run);
	mails($run);
	audit($run);
	orphans($run);
	stuck($run);
	server_log($run);
	secrets($run);
	base($run);
	return;
}

# A test that all of something is as it should be; of what is not, the first few are shown.
sub none
{
	my ($run, $name, $numbers, @wrong) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	push @{ $run->{invariants} }, [ $name, $numbers, scalar @wrong ];
	my $is_good = is(scalar @wrong, 0, "$name ($numbers)");
	diag("  $_") for @wrong[ 0 .. ($#wrong > 9 ? 9 : $#wrong) ];
	return $is_good;
}

# Rows of a query, as a list of lists.
sub rows { my ($run, $sql) = @_; return map { [ split /\|/, $_, -1 ] } split /\n/, $run->sql($sql); }

sub literal { return join ', ', map { "'" . s/'/''/gr . "'" } @_; }

sub read_journals
{
	my ($run) = @_;
	for my $file (sort glob "$run->{folder}/journal.*")
	{
		for my $line (map { eval { json_decode($_) } || () } split /\n/, slurp($file))
		{
			my ($kind, @rest) = @$line;
			if ($kind eq 'said') { push @{ $run->{said}{ $rest[1] } }, { at => $rest[0], %{ $rest[2] } }; }
			elsif ($kind eq 'fault') { push @{ $run->{faults_of_replies} }, $rest[1]; }
			elsif ($kind eq 'away') { push @{ $run->{away} }, \@rest; }
			elsif ($kind eq 'asked') { for my $operation (keys %{ $rest[0] }) { $run->{asked}{$operation}{$_} += $rest[0]{$operation}{$_} for keys %{ $rest[0]{$operation} }; } }
		}
	}
	return;
}

sub said { my ($run, $flow) = @_; return @{ $run->{said}{$flow} || [] }; }

# Everything that is due is done: deliveries, mails, incoming events, folding, sealing, reservations.
sub settle
{
	my ($run) = @_;
	my $since = time();
	my %left = (
		deliveries => 'select count(*) from keelson.deliveries',
		mails => $run->{mails} ? q{select count(*) from keelson.mail_messages where state = 'pending' and expires_at > now()} : 'select 0',
		'incoming events' => 'select count(*) from keelson.incoming_events where due_at is not null and due_at <= now() + interval \'5 minutes\'',
		requests => 'select count(*) from keelson.recovery_requests',
		'usage events' => 'select count(*) from keelson.usage_events as e, keelson.usage_watermark as w where (e.era, e.xid, e.id) > (w.era, w.xid, w.event_id)',
		reservations => q{select count(*) from keelson.quota_reservations where expires_at > now()},
		'audit ring' => q{select value from keelson._audit_counters() where name = 'ring_bytes'},
	);
	my ($waiting, $fewest, $changed);
	# For as long as it becomes less.
	my $is_settled = 0;
	until ($is_settled)
	{
		my %count = map { my ($status, $count) = $run->{keelson}->try_sql($left{$_}); $status || $count ? ($_ => $status ? '?' : $count) : () } keys %left;
		$waiting = join ', ', map { "$_: $count{$_}" } sort keys %count;
		last if $is_settled = !%count;
		my $sum = 0;
		$sum += $_ eq '?' ? 1e9 : $_ for values %count;
		($fewest, $changed) = ($sum, time()) if !defined $fewest || $sum < $fewest;
		last if time() > $changed + 120;
		# What waits for its second try longer than this run has patience for.
		$run->{keelson}->try_sql(q{update keelson.deliveries set due_at = now() where claim_id is null and due_at > now() + interval '2 seconds' and due_at < 'infinity';
			update keelson.courier_lanes set breaker = 'closed', breaker_until = null where breaker in ('open', 'half_open');
			select count(keelson._courier_hint(user_id, lane, true)) from keelson.deliveries});
		sleep 0.2;
	}
	ok($is_settled, sprintf 'everything settles (%.1f s)', time() - $since) or diag("still waiting: $waiting");
	$run->sql(q{call keelson.job_run('roll-over-periods')});
	push @{ $run->{invariants} }, [ 'everything settles', sprintf('%.1f s', time() - $since), $is_settled ? 0 : 1 ];
	return;
}

# Replies: none that may not be given, none away while nothing was broken, every endpoint asked.
sub replies
{
	my ($run) = @_;
	my $all = 0;
	for my $statuses (values %{ $run->{asked} }) { $all += $_ for values %$statuses; }
	none($run, 'replies that may never be given', "$all requests", @{ $run->{faults_of_replies} || [] });
	none($run, 'what breaks has the effects that it may have', scalar(@{ $run->{windows} }) . ' faults', @{ $run->{found} });
	my @away = @{ $run->{away} || [] };
	none($run, 'refusals while nothing was broken', scalar(@away) . ' refused or cut off in all',
		map { sprintf '%s: %s at %.3f, for %.1f s', @$_[ 2, 3, 0 ], $_->[1] - $_->[0] } grep { !$run->is_excused($_->[0], $_->[1]) } @away);
	my $paths = $run->{description}{paths};
	my @operations = map { my $path = $_; map { uc($_) . " $path" } grep { ref $paths->{$path}{$_} eq 'HASH' && $paths->{$path}{$_}{responses} } keys %{ $paths->{$path} } } keys %$paths;
	my @silent = grep { !$run->{asked}{$_} } sort @operations;
	none($run, 'endpoints that nobody asked', @operations . ' endpoints', @silent);
	return;
}

# Who was told that they have registered is there, wholly; names and keys are the last; ended credentials open nothing.
sub accounts
{
	my ($run) = @_;
	my @emails = map { $_->{email} } said($run, 'register');
	my %there = map { $_->[0] => 1 } rows($run, q{select u.email from keelson.users as u
		where exists (select from keelson.user_emails as e where e.email = lower(u.email) and e.user_id = u.id)
			and exists (select from keelson.passwords as p where p.user_id = u.id) and exists (select from keelson.subscriptions as s where s.user_id = u.id)
			and exists (select from keelson.referrals as r where r.user_id = u.id) and exists (select from keelson.user_keys as k where k.user_id = u.id)});
	none($run, 'registrations that are not there', @emails . ' acknowledged', grep { !$there{$_} } @emails);
	last_of($run, 'profile', 'name', 'select id, name from keelson.users');
	last_of($run, 'api_key', 'tail', q{select user_id, right(masked_key, 4) from keelson.user_api_keys where service = 'openai'}) if said($run, 'api_key');
	my @ended = said($run, 'ended');
	my @open = grep { $run->{gateway}->request($_->{token} =~ /^ks_/ ? ('POST', '/api/usage', json => { feature => 'late', minutes => 1 }) : ('GET', '/api/auth/me'), token => $_->{token})->{status} < 300 } @ended;
	none($run, 'ended credentials that open something', @ended . ' ended', map { substr $_->{token}, 0, 20 } @open);
	return;
}

# Of a thing that is changed again and again: it is the last that was told, or one that nobody was told of.
sub last_of
{
	my ($run, $flow, $field, $query) = @_;
	my (%last, %unsure);
	for my $said (said($run, $flow))
	{
		if ($said->{told}) { $last{ $said->{user} } = $said->{$field}; } else { $unsure{ $said->{user} }{ $said->{$field} } = 1; }
	}
	my %is = map { $_->[0] => $_->[1] } rows($run, $query);
	my @wrong = grep { ($is{$_} // '') ne $last{$_} && !$unsure{$_}{ $is{$_} // '' } } sort keys %last;
	my $changes = () = said($run, $flow);
	none($run, "${flow}s that are not the last", "$changes changes", map { "$_ has " . ($is{$_} // 'none') . ", was told $last{$_}" } @wrong);
	return;
}

sub usage_and_quotas
{
	my ($run) = @_;
	my (%minutes, %work, %orders);
	$minutes{"$_->{user} $_->{feature}"} += $_->{minutes} for said($run, 'usage');
	$work{ $_->{user} } += $_->{amount} for said($run, 'work');
	$orders{ $_->{user} } += $_->{done} for said($run, 'order');
	my %events = map { ("$_->[0] $_->[1]" => $_->[2]) } rows($run, q{select user_id, feature, trim_scale(sum(minutes)) from keelson.usage_events group by 1, 2});
	my %totals = map { ("$_->[0] $_->[1]" => $_->[2]) } rows($run, q{select user_id, feature, trim_scale(minutes) from keelson.usage_totals});
	none($run, 'usage that is not what was acknowledged', scalar(said($run, 'usage')) . ' acknowledged',
		map { "$_: $minutes{$_} told, " . ($events{$_} // 0) . ' recorded, ' . ($totals{$_} // 0) . ' folded' }
			grep { $minutes{$_} != ($events{$_} // 0) || $minutes{$_} != ($totals{$_} // 0) } sort keys %minutes);
	none($run, 'days whose rollups are not their events', 'usage_reconcile', map { "@$_" } rows($run, 'select * from keelson.usage_reconcile()'));
	my %used = map { ("$_->[0] $_->[1]" => $_->[2]) } rows($run, q{select user_id, name, trim_scale(used) from keelson.quota_counters});
	my %told = ((map { ("$_ work" => $work{$_}) } keys %work), (map { ("$_ orders" => $orders{$_}) } keys %orders),
		map { /^(\S+) metered$/ ? ("$1 metered" => $minutes{$_}) : () } keys %minutes);
	none($run, 'quotas that are not what was acknowledged', scalar(keys %told) . ' counters',
		map { "$_: $told{$_} told, " . ($used{$_} // 0) . ' used' } grep { $told{$_} != ($used{$_} // 0) } sort keys %told);
	none($run, 'quotas over their hard limit', 'all users', map { "@$_" } rows($run, q{select c.user_id, c.name, c.used, l.amount
		from keelson.quota_counters as c join keelson.subscriptions as s using (user_id)
		join keelson.tier_limits as l on l.tier_id = s.tier_id and l.kind = c.kind and l.name = c.name and l.is_hard
		where c.used + c.reserved > l.amount and c.name in ('orders', 'metered', 'work')}));
	none($run, 'reservations that are left, or counted and not there', 'all users',
		map { "@$_" } rows($run, q{select user_id, name, reserved from keelson.quota_counters where reserved <> 0
			union all select user_id, name, amount from keelson.quota_reservations}));
	return;
}

# An order is one transaction: row, quota, event, usage, audit, all or nothing, once.
sub orders
{
	my ($run) = @_;
	my @told = said($run, 'order');
	my %is = map { ($_->[0] => $_->[1]) } rows($run, 'select label, min(id::text) from torture.orders group by label having count(*) = 1');
	none($run, 'orders that are not as they were answered', @told . ' answered',
		map { "$_->{label}: " . ($_->{id} // 'refused') . ' told, ' . ($is{ $_->{label} } // 'none') . ' there' }
			grep { ($_->{id} // '') ne ($is{ $_->{label} } // '') } @told);
	none($run, 'orders without their event, or events without their order', 'all users', map { "@$_" } rows($run, q{
		select o.label, o.event_id, e.id from torture.orders as o
		full join (select * from keelson.webhook_events where event_type = 'order.paid') as e on e.user_id = o.user_id and e.id = o.event_id
		where (o.event_id is null) <> (e.id is null) or o.user_id is null}));
	none($run, 'orders that were metered otherwise than once', 'all users', map { "@$_" } rows($run, q{
		select user_id, o.orders, u.orders from (select user_id, count(*) as orders from torture.orders group by 1) as o
		full join (select user_id, count(*) as orders from keelson.usage_events where feature = 'order' group by 1) as u using (user_id)
		where o.orders is distinct from u.orders}));
	my @unrecorded = rows($run, q{select o.label from torture.orders as o where not exists (
		select from keelson.audit_events as a where a.user_id = o.user_id and a.id = o.audit_id)});
	# Where even the record found no room, the action goes on, and what a crash then takes is the record.
	my $may_lack = grep { $_->{fault} =~ /disk_full/ } @{ $run->{windows} };
	none($run, 'orders without their record', scalar(@told) . ' answered' . ($may_lack ? ', the disk was full' : ''), $may_lack ? () : map { $_->[0] } @unrecorded);
	$run->count('records lost while the disk was full', scalar @unrecorded) if $may_lack;
	return;
}

# Every event has one delivery for each endpoint that wanted it, delivered; it has arrived, signed, in its order, and no
# more of it twice than was under way when something broke.
sub deliveries
{
	my ($run) = @_;
	my ($expected, $found, @odd) = @{ (rows($run, 'select * from keelson.webhook_accounting()'))[0] };
	none($run, 'deliveries that are missing, doubled or unexpected', "$found for $expected",
		(map { (qw(missing doubled unexpected))[$_] . ": $odd[$_]" } grep { $odd[$_] } 0 .. 2), $expected == $found ? () : 'the count is not even');
	my @emitted = map { $_->{id} } said($run, 'emitted');
	my %events = map { $_->[0] => 1 } rows($run, q{select id from keelson.webhook_events where event_type = 'parcel.sent'});
	none($run, 'events that were acknowledged and are not there', @emitted . ' acknowledged', grep { !$events{$_} } @emitted);
	my %endpoint = map { $_->{id} => $_ } said($run, 'endpoint');
	my %mine = map { $_->[0] => $_->[1] } rows($run, 'select l.state, count(*) from keelson.deliveries_log as l where l.lane in (' . (literal(keys %endpoint) || 'null') . ') group by 1');
	none($run, 'deliveries of the flows that were given up', join(', ', map { "$_ $mine{$_}" } sort keys %mine), grep { $_ ne 'delivered' } keys %mine);
	arrivals($run, %endpoint);
	return;
}

sub arrivals
{
	my ($run, %endpoint) = @_;
	my %by_path = map { $_->{path} => $_ } values %endpoint;
	my (%times, %order, @forged);
	for my $request ($run->{sink}->requests)
	{
		my $endpoint = $by_path{ $request->{path} } or next;
		my $id = $request->{headers}{'webhook-id'};
		push @{ $order{ $request->{path} } }, $id if !$times{"$id $endpoint->{id}"}++ && json_decode($request->{body})->{data}{isOrdered};
		my $signature = hmac_sha256_base64("$id.$request->{headers}{'webhook-timestamp'}.$request->{body}", decode_base64($endpoint->{secret} =~ s/^whsec_//r));
		push @forged, $id if index($request->{headers}{'webhook-signature'} // '', $signature) < 0;
	}
	my @wanted = grep { $endpoint{ $_->[1] } } rows($run, 'select e.id, w.id from keelson.webhook_events as e cross join lateral unnest(e.endpoint_ids) as w (id)');
	none($run, 'deliveries that have not arrived', @wanted . ' of the flows', map { "$_->[0] at $endpoint{$_->[1]}{path}" } grep { !$times{"$_->[0] $_->[1]"} } @wanted);
	none($run, 'deliveries whose signature is not theirs', @wanted . ' of the flows', @forged);
	none($run, 'keys whose events came out of their order', keys(%order) . ' keys',
		grep { my $ids = $order{$_}; /ordered/ && grep { $ids->[$_] lt $ids->[ $_ - 1 ] } 1 .. $#$ids } sort keys %order);
	my $again = 0;
	$again += $times{$_} - 1 for grep { $endpoint{ (split / /)[1] }{path} =~ /ordered|slow/ } keys %times;
	my $most = $run->{in_flight} * @{ $run->{windows} };
	none($run, 'deliveries that came again, over what was under way', "$again again of at most $most", $again > $most ? $again : ());
	return;
}

sub incoming
{
	my ($run) = @_;
	my @told = map { $_->{id} } said($run, 'incoming');
	my %handled = map { ($_->[0] => $_->[1]) } rows($run, 'select external_id, count(*) from torture.received group by 1');
	none($run, 'incoming events that were not handled once', @told . ' acknowledged', grep { ($handled{$_} // 0) != 1 } @told);
	none($run, 'effects of events that are not done, or are not there', scalar(keys %handled) . ' handled', map { "@$_" } rows($run, q{
		select r.external_id, e.processed_at from torture.received as r left join keelson.incoming_events as e using (id) where e.processed_at is null}));
	return;
}

sub mails
{
	my ($run) = @_;
	return unless $run->{mails};
	my %arrived;
	$arrived{ ($_->{data} =~ /^Message-ID: (\S+?)\r?$/mi)[0] // '' }++ for $run->{mails}->mails;
	my @sent = rows($run, q{select message_id, recipient from keelson.mail_messages where state = 'sent'});
	none($run, 'mails that were sent and have not arrived', @sent . ' sent', map { "@$_" } grep { !$arrived{ $_->[0] } } @sent);
	none($run, 'mails without a delivery', 'all that wait', map { "@$_" } rows($run, q{select m.id, m.recipient, m.state from keelson.mail_messages as m
		where m.state = 'pending' and not exists (select from keelson.deliveries as d where d.kind = 'mail' and d.id = m.id)}));
	return;
}

sub audit
{
	my ($run) = @_;
	my $events = $run->sql('select count(*) from keelson.audit_events');
	ok(wait_until(sub { $run->sql('select coalesce(max(size), 0) >= ' . $events . ' from keelson.audit_checkpoints') eq 't' }, 30), 'the trail is sealed');
	none($run, 'findings in the trail', "$events events", map { join ' ', @$_ } rows($run, 'select * from keelson.audit_verify()'));
	return;
}

# Rows that belong to nobody, by the catalogue: every table with a column user_id.
sub orphans
{
	my ($run) = @_;
	my @tables = map { $_->[0] } rows($run, q{select relation from keelson.user_data_tables() where relation <> 'keelson.users' order by 1});
	# A failure is noted for an address that nobody has, too; the trail outlives whom it is about. Ids of zeros are the server's own.
	my %outlives = map { ("keelson.$_" => 1) } qw(authentication_failures audit_events);
	my @orphans = map { my $table = $_; map { "$table: $_->[0] rows of $_->[1]" } rows($run, "select count(*), user_id from $table as t
		where not exists (select from keelson.users as u where u.id = t.user_id) and user_id::text not like '00000000-0000-0000-0000-0000000000__' group by 2 order by 1 desc limit 3") }
		grep { !$outlives{$_} } @tables;
	none($run, 'rows of nobody', @tables . ' tables', @orphans);
	none($run, 'rows that lack what they belong to', 'keys, attempts, requests', map { "@$_" } rows($run, q{
		select 'usage key without event', k.user_id::text from keelson.usage_keys as k group by k.user_id
			having count(*) > (select count(*) from keelson.usage_events as e where e.user_id = k.user_id)
		union all select 'attempt without delivery', a.delivery_id::text from keelson.delivery_attempts as a
			where not exists (select from keelson.deliveries as d where d.user_id = a.user_id and d.id = a.delivery_id)
				and not exists (select from keelson.deliveries_log as l where l.user_id = a.user_id and l.id = a.delivery_id)
		union all select 'request without delivery', r.id::text from keelson.http_requests as r
			where not exists (select from keelson.deliveries as d where d.user_id = r.user_id and d.id = r.id)
		union all select 'address of nobody', e.email from keelson.user_emails as e where not exists (select from keelson.users as u where u.id = e.user_id)
		union all select 'event without receipt', external_id from keelson.incoming_events as i
			where (select count(*) from keelson.webhook_receipts) < (select count(*) from keelson.incoming_events) limit 10}));
	return;
}

# What is held and by nobody: claims, locks, transactions, jobs.
sub stuck
{
	my ($run) = @_;
	none($run, 'claims that nobody holds', 'deliveries, incoming events', map { "@$_" } rows($run, q{
		select 'delivery', id::text from keelson.deliveries where claim_id is not null and lease_until < now()
		union all select 'incoming event', id::text from keelson.incoming_events where due_at < now() - interval '10 seconds'}));
	for my $job (map { $_->[0] } rows($run, 'select name from keelson.jobs order by 1'))
	{
		my ($status, undef, $messages) = $run->{keelson}->try_sql("call keelson.job_run('$job')");
		$run->found("job $job: $messages") if $status;
	}
	none($run, 'jobs that run and do not, or fail', 'each was run once more', map { "@$_" } rows($run, q{select name, last_outcome, last_errors from keelson.jobs where last_outcome <> 'success'
		union all select job, outcome, errors from keelson.job_runs where outcome = 'running'}));
	my @held;
	wait_until(sub { !(@held = rows($run, q{select pid, state, wait_event, left(query, 60) from pg_stat_activity where pid <> pg_backend_pid()
		and backend_type = 'client backend' and (state <> 'idle' or xact_start is not null)
		union all select pid, mode, locktype, relation::regclass::text from pg_locks
		where pid <> pg_backend_pid() and (locktype <> 'advisory' or not granted) and locktype <> 'virtualxid' and pid in (select a.pid from pg_stat_activity as a where a.usename = 'keelson_gateway')})) }, 20);
	none($run, 'transactions and locks that are left', 'of the gateway', map { "@$_" } @held);
	return;
}

# The server's log has errors that faults explain, and none of our own making.
sub server_log
{
	my ($run) = @_;
	my (%states, @strange);
	my $log = $run->{keelson}->server_log;
	for my $line (grep { / (?:ERROR|FATAL|PANIC):  / } split /\n/, $log)
	{
		my ($state, $level, $message) = $line =~ /\] ([0-9A-Z]{5}) (ERROR|FATAL|PANIC):  (.*)/ or next;
		$states{"$level $state"}++;
		next if $state =~ /^(?:KS|57|53|40|08|55P03|25006|28|58030|25P03)/;
		# The last words of a server that has no disk; and workers begin before there is a database.
		next if $level ne 'ERROR' && ($message =~ /No space left/ || $state eq '3D000');
		push @strange, substr $line, 0, 300;
	}
	$run->count("in the server's log: $_", $states{$_}) for sort keys %states;
	none($run, 'errors in the server\'s log that nothing explains', scalar(keys %states) . ' kinds in all', @strange);
	none($run, 'crashes of the server\'s own', $run->crashes . ' by our hand', grep { !/by signal (9|6)\b/ || /signal 6/ && !grep { $_->{fault} eq 'wal_disk_full' } @{ $run->{windows} } } $log =~ /(.*was terminated by signal.*)/g, $log =~ /(TRAP:.*)/g);
	return;
}

# Nothing secret in the logs: neither what callers chose nor what they were given.
sub secrets
{
	my ($run) = @_;
	my @given = map { grep { length >= 16 } split /\n/, slurp($_) } glob "$run->{folder}/secrets.*";
	my $pattern = join '|', map { quotemeta } $run->{mark}, $Torture::Flows::source_secret, @given;
	my @seen;
	for my $log ([ 'the server', $run->{keelson}->server_log ], [ 'the gateway', $run->{gateway}->log_text ])
	{
		while ($log->[1] =~ /^(.*(?:$pattern).*)$/mg) { push @seen, "$log->[0]: " . substr $1, 0, 200; }
	}
	none($run, 'secrets in the logs', @given . ' handed out', @seen);
	return;
}

# Descriptors, sessions and memory are what they were.
sub base
{
	my ($run) = @_;
	my $base = $run->{base};
	my $now;
	my @over;
	wait_until(sub {
		$now = $run->measure;
		@over = ();
		push @over, "descriptors of the gateway: $now->{descriptors}" if $now->{descriptors} > $base->{descriptors} + 6;
		push @over, "memory of the gateway: $now->{gateway} kB" if $now->{gateway} > 2 * $base->{gateway} + 20_000;
		for my $what (grep { ref $now->{$_} } sort keys %$now)
		{
			my $most = $what eq 'client backend' ? 16 : 1;
			push @over, "$what: " . @{ $now->{$what} } if @{ $now->{$what} } > $most;
			my ($largest) = sort { $b <=> $a } @{ $now->{$what} };
			# What describes the API takes sixty megabytes for a moment, and malloc keeps them.
			push @over, "memory of $what: $largest kB" if $largest > 120_000;
		}
		return !@over;
	}, 20);
	my $shown = sub { my ($m) = @_; return join ', ', "$m->{descriptors} descriptors", "gateway $m->{gateway} kB", map { "$_ " . join '/', sort { $a <=> $b } @{ $m->{$_} } } grep { ref $m->{$_} } sort keys %$m; };
	$run->{measured} = [ $shown->($base), $shown->($now) ];
	none($run, 'memory, descriptors and sessions over their base', $shown->($now), @over);
	return;
}

1;
