# A caller in a process of its own: asks the gateway, judges every reply, and writes down what it was told.
#
# A line of its journal is a JSON array:
#   ["said", at, flow, {…}]              what a flow was told, for Torture::Invariants
#   ["fault", at, text]                  a reply that may never be given
#   ["away", from, until, operation, status]   refused or cut off: good only while something was broken
#   ["asked", {operation → {status → times}}]  at the end
# Secrets that replies handed out stand in a file beside it.

package Torture::Client;

use strict;
use warnings;

use KeelsonTest;
use Time::HiRes qw(sleep time);

# The longest that a request may take: the longest timeout of a route, and the gateway's second.
our $patience = 33;

# Arguments: gateway, number, folder, mark (a word in every secret that we choose).
sub new
{
	my ($class, %given) = @_;
	my $self = bless { %given, asked => {}, kept => 0 }, $class;
	open $self->{journal}, '>>', "$given{folder}/journal.$given{number}" or die "journal: $!";
	open $self->{secrets}, '>>', "$given{folder}/secrets.$given{number}" or die "secrets: $!";
	return $self;
}

sub gateway { return $_[0]{gateway}; }
sub number  { return $_[0]{number}; }

# A name that nobody else has, with a word for what it is.
sub fresh { my ($self, $word) = @_; return sprintf '%s-%d-%d', $word, $self->{number}, ++$self->{fresh}; }

# A secret that nobody else has; found by the mark in it.
sub secret { my ($self) = @_; return $self->{mark} . sprintf 'z%dz%dz', $self->{number}, ++$self->{fresh}; }

sub write_line
{
	my ($self, @line) = @_;
	syswrite $self->{journal}, json_encode(\@line) . "\n";
	return;
}

sub said  { my ($self, $flow, %what) = @_; return $self->write_line('said', time(), $flow, \%what); }
sub fault { my ($self, $text) = @_; return $self->write_line('fault', time(), $text); }

# Sends one request and judges the reply. Options are those of KeelsonTest::Gateway's request, and
#   operation   its name in the report        documented   the statuses that its description knows
# The reply has a word besides: told, or unknown, since nobody can say whether it was done.
sub ask
{
	my ($self, $method, $path, %options) = @_;
	my $operation = delete $options{operation} || "$method " . ($path =~ s/\?.*//r);
	my $documented = delete $options{documented};
	my $from  = time();
	my $reply = $self->{gateway}->request($method, $path, %options, timeout => $patience);
	$self->{asked}{$operation}{ $reply->{status} }++;
	$self->judge($operation, $reply, $from, $documented);
	$self->keep_secrets($reply) if $reply->{status} < 300;
	$reply->{word} = $reply->{status} < 500 ? 'told' : 'unknown';
	# As Retry-After asks, though sooner.
	sleep 0.1 if $reply->{word} eq 'unknown';
	return $reply;
}

sub judge
{
	my ($self, $operation, $reply, $from, $documented) = @_;
	my $status = $reply->{status};
	my $code   = ref $reply->{json} eq 'HASH' ? $reply->{json}{code} // '' : '';
	my $said   = sub { return $self->fault(sprintf '%s: %s (%s, %s)', $operation, $_[0], $status, substr $reply->{content} // '', 0, 300); };
	if ($status == 599 || $status == 503 || $status == 504 || $status == 502)
	{
		# Who waits for others may be refused for a while after they are well, by the breaker.
		$self->write_line('away', $from, time(), $operation, 0 + $status) unless $documented && $documented->{502} && $status != 599;
		$said->('waited for too long') if $status == 599 && time() - $from >= $patience - 1;
		$said->('503 without UNAVAILABLE and Retry-After')
			if $status == 503 && !($operation =~ m{ /(?:ready|health)} || $code eq 'UNAVAILABLE') || $status == 503 && !$reply->{headers}{'retry-after'};
		$said->('504 is not TIMEOUT') if $status == 504 && $code ne 'TIMEOUT';
		$said->('502 is not described') if $status == 502 && $documented && !$documented->{502};
		return;
	}
	return $said->('may never be answered') if $status >= 500 || $status < 200;
	$said->('is not described') if $documented && !$documented->{$status} && $status != 404;
	$said->('a refusal without its code') if $status >= 400 && $operation !~ m{^HEAD} && $code !~ /^[A-Z_]+$/;
	return;
}

# Whatever a reply hands out that is secret by its name, to be looked for in the logs.
sub keep_secrets
{
	my ($self, $reply) = @_;
	return if $self->{kept} > 4000 || ref $reply->{json} ne 'HASH';
	my @left = ($reply->{json});
	while (my $value = shift @left)
	{
		push @left, grep { ref =~ /^(?:HASH|ARRAY)$/ } ref $value eq 'HASH' ? values %$value : @$value;
		next unless ref $value eq 'HASH';
		for my $name (grep { /token|secret|^key$|challenge|otpauth|recoveryCodes/i && defined $value->{$_} } keys %$value)
		{
			for my $secret (grep { !ref && length >= 16 } ref $value->{$name} eq 'ARRAY' ? @{ $value->{$name} } : $value->{$name})
			{
				# Of a JWT the signature is the secret: the rest is the same in many.
				syswrite $self->{secrets}, ($secret =~ s/^.*\.//r) . "\n";
				$self->{kept}++;
			}
		}
	}
	return;
}

# Asks again until somebody answers, or until the seconds are over. The code gives a reply.
sub until_told
{
	my ($self, $code, $seconds) = @_;
	my $deadline = time() + $seconds * $KeelsonTest::slow;
	my $reply;
	while (1)
	{
		$reply = $code->();
		my $again = $reply->{word} eq 'unknown' || (ref $reply->{json} eq 'HASH' && ($reply->{json}{code} // '') eq 'IDEMPOTENCY_IN_PROGRESS');
		return $reply if !$again || time() > $deadline;
		sleep 0.05;
	}
}

# A person of this worker's: registers, and asks again until that is known to be done.
sub person
{
	my ($self, %given) = @_;
	my %person = (email => $self->fresh('person') . '@torture.example.com', password => 'horse ' . $self->secret, %given);
	my $reply = $self->until_told(sub { return $self->ask(POST => '/api/auth/register', json => { email => $person{email}, password => $person{password} }) }, 60);
	return $self->sign_in(\%person) if $reply->{status} == 409;
	return unless $reply->{status} == 201;
	return $self->signed_in(\%person, $reply);
}

sub signed_in
{
	my ($self, $person, $reply) = @_;
	my $data = $reply->{json}{data};
	@$person{qw(id token refresh since)} = ($data->{user}{id}, @$data{qw(accessToken refreshToken)}, time());
	return $person;
}

sub sign_in
{
	my ($self, $person) = @_;
	my $reply = $self->until_told(sub { return $self->ask(POST => '/api/auth/login', json => { email => $person->{email}, password => $person->{password} }) }, 60);
	return if $reply->{word} eq 'unknown';
	return $self->signed_in($person, $reply) if $reply->{status} == 200;
	$self->fault("$person->{email}, who has registered, cannot sign in: $reply->{status} $reply->{content}");
	return;
}

# A person's token; whose token's time is over signs in again.
sub token_of
{
	my ($self, $person) = @_;
	$self->sign_in($person) if time() - $person->{since} > 600;
	return $person->{token};
}

sub ask_as
{
	my ($self, $person, $method, $path, %options) = @_;
	my $reply = $self->ask($method, $path, %options, token => $self->token_of($person));
	$self->fault("the token of $person->{email} is not taken: $method $path $reply->{content}") if $reply->{status} == 401;
	return $reply;
}

sub finish { my ($self) = @_; return $self->write_line('asked', $self->{asked}); }

1;
