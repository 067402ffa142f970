# Flows: what a caller does for a purpose, in several steps, and what it was told of each. Nothing here looks at the
# database; Torture::Invariants holds what was told against what is there.
#
# A flow is a function of (client, state): one step, which may be repeating what nobody has answered yet.

package Torture::Flows;

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use KeelsonTest;
use Time::HiRes qw(time);

# Name → [how often, of all; the function].
our %flows = (
	register => [ 1, \&register ],
	profile  => [ 4, \&profile ],
	usage    => [ 5, \&usage ],
	order    => [ 6, \&order ],
	work     => [ 4, \&work ],
	incoming => [ 4, \&incoming ],
	session  => [ 3, \&session ],
	keys     => [ 2, \&keys_of_services ],
);

our $source_secret = 'torture-source-secret-of-the-run';

# The people of a worker, and what they need: state for the flows; nothing if it could not be had.
sub begin
{
	my ($client, $sink) = @_;
	my %state = (people => [ map { $client->person || return } 1 .. 2 ], pending => [], chains => [], n => 0);
	for my $person (@{ $state{people} })
	{
		my $made = $client->ask_as($person, POST => '/api/user/access-keys', json => { name => 'usage', scopes => ['usage.write'] });
		$person->{key} = $made->{json}{data}{key} or return;
		for my $path ("/as/weather?$person->{id}", "/ordered?$person->{id}")
		{
			my $endpoint = $client->ask_as($person, POST => '/api/webhooks', json =>
				{ url => $sink->url($path), events => ['order.*'], retrySchedule => [ (1) x 32 ] });
			return unless $endpoint->{status} == 201;
			$client->said('endpoint', id => $endpoint->{json}{data}{id}, user => $person->{id}, path => $path, secret => $endpoint->{json}{data}{secret});
		}
	}
	return \%state;
}

# One step of a flow that the dice choose, or of one that waits for an answer.
sub step
{
	my ($client, $state) = @_;
	if (@{ $state->{pending} } && rand() < 0.5)
	{
		my $again = shift @{ $state->{pending} };
		return $again->();
	}
	my $all  = 0;
	my $dice = rand eval { my $sum = 0; $sum += $_->[0] for values %flows; $sum };
	for my $name (sort keys %flows)
	{
		$all += $flows{$name}[0];
		return $flows{$name}[1]->($client, $state) if $dice < $all;
	}
	return;
}

# Asks what was not answered until it is.
sub finish
{
	my ($client, $state) = @_;
	my $deadline = time() + 60 * $KeelsonTest::slow;
	while (my $again = shift @{ $state->{pending} })
	{
		$again->();
		last if time() > $deadline;
	}
	$client->fault(@{ $state->{pending} } . ' requests were not answered in the end') if @{ $state->{pending} };
	return;
}

# Repeats a request, which must be safe to repeat, until it is answered; then calls what is to follow with the reply.
sub repeat
{
	my ($state, $ask, $then) = @_;
	my $reply = $ask->();
	my $code = ref $reply->{json} eq 'HASH' ? $reply->{json}{code} // '' : '';
	return $then->($reply) unless $reply->{word} eq 'unknown' || $code eq 'IDEMPOTENCY_IN_PROGRESS';
	push @{ $state->{pending} }, sub { return repeat($state, $ask, $then) };
	return;
}

sub someone { my ($state) = @_; return $state->{people}[ rand @{ $state->{people} } ]; }

sub register
{
	my ($client, $state) = @_;
	my %person = (email => $client->fresh('guest') . '@torture.example.com', password => 'horse ' . $client->secret);
	my $doubt = 0;
	repeat($state, sub {
		my $reply = $client->ask(POST => '/api/auth/register', json => { email => $person{email}, password => $person{password} });
		$doubt ||= $reply->{word} eq 'unknown';
		return $reply;
	}, sub {
		my ($reply) = @_;
		return $client->fault("$person{email}, who is new: $reply->{status} $reply->{content}") unless $reply->{status} == 201 || $reply->{status} == 409 && $doubt;
		$client->said('register', email => $person{email});
		$client->sign_in(\%person) if $reply->{status} == 409;
	});
	return;
}

# A name after the other: the last that was told is the name, or one that nobody was told of, which may come late.
sub profile
{
	my ($client, $state) = @_;
	my $person = someone($state);
	my $name   = 'Name ' . ++$state->{n};
	my $reply  = $client->ask_as($person, PUT => '/api/user/profile', json => { name => $name });
	$client->said('profile', user => $person->{id}, name => $name, told => $reply->{word} eq 'told' ? 1 : 0);
	$person->{unsure}{$name} = 1 if $reply->{word} eq 'unknown';
	return if $reply->{word} eq 'unknown';
	return $client->fault("the name of $person->{email}: $reply->{status} $reply->{content}") unless $reply->{status} == 200;
	my $read = $client->ask_as($person, GET => '/api/user/profile');
	return unless $read->{status} == 200;
	my $found = $read->{json}{data}{user}{name};
	$client->fault("who has changed a name to $name reads $found") unless $found eq $name || $person->{unsure}{$found};
	return;
}

# Events with keys, sent until they are counted; those of a feature with a hard limit until they are refused for good.
sub usage
{
	my ($client, $state) = @_;
	my $person  = someone($state);
	my $feature = rand() < 0.3 ? 'metered' : 'torture';
	my @events  = map { +{ feature => $feature, minutes => (1 + int rand 16) / 8, key => $client->fresh('usage') } } 1 .. 1 + int rand 5;
	repeat($state, sub {
		return $client->ask(POST => '/api/usage', json => { events => \@events }, token => $person->{key});
	}, sub {
		my ($reply) = @_;
		my $data = $reply->{json}{data};
		return $client->fault("usage: $reply->{status} $reply->{content}")
			unless $reply->{status} == 202 && $data->{accepted} + $data->{duplicates} == @events || $reply->{status} == 429 && $feature eq 'metered';
		return unless $reply->{status} == 202;
		my $minutes = 0;
		$minutes += $_->{minutes} for @events;
		$client->said('usage', user => $person->{id}, feature => $feature, minutes => $minutes, events => scalar @events);
		push @{ $state->{pending} }, sub { return again($client, $person, \@events) } if rand() < 0.2;
	});
	return;
}

# What was counted is not counted again.
sub again
{
	my ($client, $person, $events) = @_;
	my $reply = $client->ask(POST => '/api/usage', json => { events => $events }, token => $person->{key});
	$client->fault("counted again: $reply->{content}") if $reply->{status} == 202 && $reply->{json}{data}{accepted};
	return;
}

# An order with an idempotency key, repeated until it is answered, and now and then once more.
sub order
{
	my ($client, $state) = @_;
	my $person  = someone($state);
	my $label   = $client->fresh('order');
	my %request = (json => { label => $label, n => ++$state->{n} }, headers => { 'Idempotency-Key' => $label });
	my $ask = sub { return $client->ask_as($person, POST => '/api/torture/orders', %request) };
	repeat($state, $ask, sub {
		my ($reply) = @_;
		my $id = $reply->{status} == 201 ? $reply->{json}{data}{id} : undef;
		return $client->fault("order $label: $reply->{status} $reply->{content}") unless defined $id || $reply->{status} == 429;
		$client->said('order', user => $person->{id}, label => $label, id => $id, done => defined $id ? 1 : 0);
		return unless defined $id && rand() < 0.3;
		repeat($state, $ask, sub {
			my ($second) = @_;
			my $same = $second->{status} == 201 && $second->{json}{data}{id} eq $id && ($second->{headers}{'idempotency-replayed'} // '') eq 'true';
			$client->fault("order $label, asked again: $second->{status} $second->{content}") unless $same;
		});
	});
	return;
}

# A reservation, and its end: with what was used, or with nothing, or none, so that its time runs out.
sub work
{
	my ($client, $state) = @_;
	my $person = someone($state);
	my $begun  = $client->ask_as($person, POST => '/api/torture/work', json => { amount => 4 });
	return if $begun->{word} eq 'unknown';
	return $client->fault("work: $begun->{status} $begun->{content}") unless $begun->{status} == 201;
	my $reservation = $begun->{json}{data}{reservation};
	my $amount = (0, 1, 3, -1)[ rand 4 ];
	return if $amount < 0;
	repeat($state, sub {
		return $client->ask_as($person, PUT => "/api/torture/work/$reservation", operation => 'PUT /api/torture/work/{reservation}',
			json => { amount => $amount }, headers => { 'Idempotency-Key' => "end $reservation" });
	}, sub {
		my ($reply) = @_;
		# One that nobody came back for in time is gone.
		return $client->fault("work's end: $reply->{status} $reply->{content}") unless $reply->{status} =~ /^(200|204|404)$/;
		$client->said('work', user => $person->{id}, amount => $amount) if $reply->{status} != 404;
	});
	return;
}

# A webhook of others', sent until it is taken.
sub incoming
{
	my ($client, $state) = @_;
	my $id   = $client->fresh('evt');
	my $body = json_encode({ id => $id, type => 'thing.happened' });
	repeat($state, sub {
		return $client->ask(POST => '/webhooks/torture', body => $body,
			headers => { 'Content-Type' => 'application/json', 'X-Signature' => hmac_sha256_hex($body, $source_secret) });
	}, sub {
		my ($reply) = @_;
		return $client->fault("incoming $id: $reply->{status} $reply->{content}") unless $reply->{status} == 200;
		$client->said('incoming', id => $id);
	});
	return;
}

# A session that is refreshed, and ends: a lost reply signs nobody out for ten seconds, an end is one.
sub session
{
	my ($client, $state) = @_;
	my $chain = shift @{ $state->{chains} };
	if (!$chain || @{ $state->{chains} } < 2 && rand() < 0.2)
	{
		unshift @{ $state->{chains} }, $chain if $chain;
		my $person = $client->person or return;
		push @{ $state->{chains} }, $person;
		return;
	}
	return log_out($client, $state, $chain) if rand() < 0.1;
	my $first = time();
	my $token = $chain->{refresh};
	my $reply = $client->until_told(sub { return $client->ask(POST => '/api/auth/refresh', json => { refreshToken => $token }) }, 30);
	if ($reply->{status} == 200)
	{
		$client->signed_in($chain, { json => { data => { user => { id => $chain->{id} }, %{ $reply->{json}{data} } } } });
		push @{ $state->{chains} }, $chain;
		$client->said('refresh', user => $chain->{id});
		return;
	}
	$client->fault("a refresh token is not taken: $reply->{status} $reply->{content}") if $reply->{word} eq 'told' && time() - $first < 9;
	return;
}

sub log_out
{
	my ($client, $state, $chain) = @_;
	repeat($state, sub {
		return $client->ask(POST => '/api/auth/logout', json => {}, token => $chain->{token});
	}, sub {
		my ($reply) = @_;
		return $client->fault("log-out: $reply->{status} $reply->{content}") unless $reply->{status} =~ /^20/;
		$client->said('ended', token => $chain->{token});
		my $read = $client->ask(GET => '/api/auth/me', token => $chain->{token});
		$client->fault("who has logged out is let in: $read->{content}") if $read->{status} == 200;
	});
	return;
}

# Access keys that are made, rotated and revoked, and a key for another service: the last that was stored is there.
sub keys_of_services
{
	my ($client, $state) = @_;
	my $person = someone($state);
	if (rand() < 0.5)
	{
		my $secret = 'sk-' . $client->secret . 'x' x 20;
		my $reply = $client->ask_as($person, POST => '/api/user/api-keys', json => { service => 'openai', apiKey => $secret });
		$client->said('api_key', user => $person->{id}, tail => substr($secret, -4), told => $reply->{word} eq 'told' ? 1 : 0);
		return;
	}
	my $made = $client->ask_as($person, POST => '/api/user/access-keys', json => { name => $client->fresh('key'), scopes => ['usage.write'] });
	return unless $made->{status} == 201;
	my ($id, $key) = @{ $made->{json}{data} }{qw(id key)};
	repeat($state, sub {
		return $client->ask_as($person, DELETE => "/api/user/access-keys/$id", operation => 'DELETE /api/user/access-keys/{id}');
	}, sub {
		my ($reply) = @_;
		return $client->fault("revoking a key: $reply->{status} $reply->{content}") unless $reply->{status} =~ /^(204|404)$/;
		$client->said('ended', token => $key);
	});
	return;
}

1;
