# Users, endpoints and events from SQL, for the tests of the courier.
#
#   my $hooks = KeelsonTest::Hooks->new($keelson);
#   my $ada = $hooks->user;   my $id = $hooks->endpoint($ada, $sink->url('/x'), retry_schedule => "'{1}'");
#   $hooks->emit($ada, '{"n": 1}', 3);   $hooks->is_balanced('after the crash');

package KeelsonTest::Hooks;

use strict;
use warnings;

use KeelsonTest;
use Test::More;

sub new
{
	my ($class, $keelson) = @_;
	$keelson->sql(q{select keelson.webhook_event_type('order.paid', 'An order was paid.', '{"amount": 5}')});
	return bless { keelson => $keelson, users => 0 }, $class;
}

sub sql { my ($self, @given) = @_; return $self->{keelson}->sql(@given); }

# A person who signs in with nothing; the id.
sub user
{
	my ($self) = @_;
	my $email = sprintf 'hooks%d@example.com', ++$self->{users};
	return $self->sql("select keelson.user_create('$email', 'correct horse battery $self->{users}')");
}

# An endpoint of the user; further arguments of keelson.webhook_create() as SQL. The id.
sub endpoint
{
	my ($self, $user, $url, %more) = @_;
	$more{events} ||= "'{order.*}'";
	my $arguments = join ', ', "url => '$url'", map { "$_ => $more{$_}" } sort keys %more;
	my @lines = split /\n/, $self->sql("begin; select keelson.act_as('$user'); select (keelson.webhook_create($arguments)).id; commit");
	return $lines[-1];
}

# So many events of the payload, each in a transaction of its own.
sub emit
{
	my ($self, $user, $payload, $count, $key) = @_;
	my $ordering = defined $key ? "'$key'" : 'null';
	return $self->sql(sprintf q{do $$ begin for n in 1 .. %d loop perform keelson.webhook_emit('order.paid', '%s', '%s', %s); commit; end loop; end $$},
		$count || 1, $payload || '{"amount": 5}', $user, $ordering);
}

# How many deliveries to an endpoint are in a state.
sub count
{
	my ($self, $endpoint, $state) = @_;
	return $self->sql(qq{select (select count(*) from keelson.deliveries as d where lane = '$endpoint' and keelson._delivery_state(d.claim_id, d.is_quarantined) = '$state')
		+ (select count(*) from keelson.deliveries_log where lane = '$endpoint' and state = '$state')});
}

# The last attempt at each delivery to an endpoint: status or code.
sub outcomes
{
	my ($self, $endpoint) = @_;
	return $self->sql(qq{select coalesce(string_agg(distinct coalesce(status::text, code), ' '), '') from (
		select status, code from keelson.deliveries_log where lane = '$endpoint'
		union all select a.status, a.code from keelson.delivery_attempts as a join keelson.deliveries as d on d.user_id = a.user_id and d.id = a.delivery_id
		where d.lane = '$endpoint') as o});
}

# Every event has one delivery for each endpoint that wanted it.
sub is_balanced
{
	my ($self, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($self->sql('select expected = found, missing, doubled, unexpected from keelson.webhook_accounting()'), 't|0|0|0', "accounting: $name")
		|| diag($self->sql('select * from keelson.webhook_accounting()'));
}

1;
