# Audit events: what one adds to the transaction that it is part of, and how fast they are sealed.

use strict;
use warnings;
use Time::HiRes qw(time);

use Bench;
use Bench::System;

aim_cost('an audit event in its action, µs' => [ 5, 5.6 ]);

# Microseconds of a transaction that writes, and does so besides.
sub transaction_us
{
	my ($besides) = @_;
	return keelson->sql(qq{
		set synchronous_commit = off;
		set search_path = pg_catalog, pg_temp;
		create table if not exists bench.written (n integer);
		create temporary table timed (us float8);
		do \$\$
		declare
			started timestamptz;
		begin
			for turn in 1 .. 2 loop
				started := clock_timestamp();
				for n in 1 .. 10000 loop
					insert into bench.written values (n);
					$besides
					commit;
				end loop;
				if turn = 2 then
					insert into timed values (extract(epoch from clock_timestamp() - started) * 1e6 / 10000);
				end if;
			end loop;
		end
		\$\$;
		select us from timed});
}

measure('audit', sub {
	return unless wanted('audit');
	my $user_id = (people)[0]{id};
	my $without = transaction_us('');
	my $with = transaction_us(q{perform keelson.audit('auth.login', '{"sessionId": "0194e0a0-0000-7000-8000-000000000000"}', 'success', '} . $user_id . q{');});
	keep('audit.1.keelson', unit => 'us', value => $with - $without);
	cost('an audit event in its action, µs', $with - $without);
	keelson->sql(qq{select count(keelson.audit('auth.login', '{"n": 1}', 'success', '$user_id')) from generate_series(1, 20000)});
	my $started = time;
	my $sealed = keelson->sql('select sum(keelson.audit_seal(4096)) from generate_series(1, 6)');
	keep('audit.seal.keelson', unit => 'events/s', value => $sealed / (time - $started)) if $sealed > 5000;
});

1;
