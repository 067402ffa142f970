# How cost grows with rows: notes read and changed by key at random among so many of them (BENCH_ROWS), beside a tenth as
# many users, each with a session; by Keelson and by the fastest peer.

use strict;
use warnings;

use Bench;
use Bench::Peers;
use Bench::System;

my @sizes = split /[ ,]+/, $ENV{BENCH_ROWS} || '10000,100000,1000000';
my $rounds = $ENV{BENCH_ROUNDS} || 5;
my $requests = 20_000;    # different ones, at random
my $text = '{"text":"' . 'changed ' x 12 . '"}';

my %calls = (
	'notes-read'  => [ 'GET', '/api/bench/notes/%s', \&Bench::Peers::bearer, undef ],
	'notes-write' => [ 'PUT', '/api/bench/notes/%s', \&Bench::Peers::bearer, $text ]);

sub prepare
{
	prepare_peers();
	keelson->node->safe_psql('keelson', KeelsonTest::slurp("$FindBin::Bin/peers/growth.sql"));
	start_peer('fastify-fn', calls => {});
	return;
}

# As many rows as there are to be in all: notes of those who ask, and a tenth as many others, each with a session.
sub grow_to
{
	my ($rows) = @_;
	keelson->sql(qq{
		set synchronous_commit = off;
		insert into bench.notes (user_id, text)
		select p.ids[1 + n % cardinality(p.ids)], repeat('note ' || n || ' ', 8)
		from (select array_agg(id) as ids from peer.users where email not like 'other%') as p,
			generate_series((select count(*) + 1 from bench.notes), $rows) as n;
		create temporary table others as
		select keelson.uuid7() as id, 'other' || n || '\@example.com' as email, 'Other ' || n as name
		from generate_series((select count(*) + 1 from peer.users where email like 'other%'), $rows / 10) as n;
		insert into keelson.users (id, email, name) select id, email, name from others;
		insert into keelson.user_emails (email, user_id) select email, id from others;
		insert into keelson.sessions (user_id, id, refresh_key_id, expires_at) select id, keelson.uuid7(), 1, now() + interval '14 days' from others;
		insert into peer.users (id, email, name) select id, email, name from others;
		insert into peer.sessions (id, user_id, expires_at) select gen_random_uuid(), id, now() + interval '14 days' from others}, timeout => 3600);
	keelson->sql('vacuum analyze', timeout => 3600);
	keelson->sql('checkpoint', timeout => 3600);
	return;
}

# Requests for notes at random, each by who has it; and both must know the same of the first of them.
sub write_requests
{
	sign_in();
	my %person = map { $_->{id} => $_ } people;
	my @notes = map { [ split /\|/ ] } split /\n/, keelson->sql(qq{
		select user_id, id from bench.notes where random() < 2.0 * $requests / (select count(*) from bench.notes) order by random() limit $requests});
	my %theirs = map { $_->{id} => Bench::Peers::bearer($_) } people;
	while (my ($what, $call) = each %calls)
	{
		my ($method, $path, undef, $body) = @$call;
		write_lines(work_folder() . "/$what.requests",
			map { request_line($method, sprintf($path, $_->[1]), "Authorization: Bearer $person{ $_->[0] }{token}", $body) } @notes);
		write_lines(work_folder() . "/$what.fastify-fn.requests", map { request_line($method, sprintf($path, $_->[1]), $theirs{ $_->[0] }, $body) } @notes);
	}
	compare($person{ $_->[0] }, $_->[1]) for @notes[ 0 .. 9 ];
	return;
}

sub compare
{
	my ($person, $id) = @_;
	my $ours = gateway->get("/api/bench/notes/$id", token => $person->{token})->{json}{data};
	my $theirs = peer_ask('fastify-fn', [ 'GET', "/api/bench/notes/$id", \&Bench::Peers::bearer, undef ], $person)->{data};
	same_value($ours) eq same_value($theirs) or die 'the peer says ', same_value($theirs), ' instead of ', same_value($ours), "\n";
	return;
}

sub run_size
{
	my ($rows, $what) = @_;
	my %run = (keelson => sub { unkept(sub { run_gateway($what, 32) }) }, 'fastify-fn' => sub { unkept(sub { run_peer($what, 32, 'fastify-fn') }) });
	my %sample = map { $_ => keep("$what.$rows.$_", %{ $run{$_}->() }) } in_turn("$what.$rows", sort keys %run);
	relate(\%sample, "$what.$rows");
	return;
}

measure_once('growth', sub {
	prepare();
	for my $rows (@sizes)
	{
		grow_to($rows);
		write_requests();
		if ($rows == $sizes[0])
		{
			warm_peer($_, 'fastify-fn') for sort keys %calls;
			unkept(sub { run_gateway($_, 32) }) for sort keys %calls;
		}
		for (1 .. $rounds) { run_size($rows, $_) for sort keys %calls; }
		say_out("$rows rows are done");
	}
});

1;
