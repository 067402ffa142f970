# Calls of every endpoint, made from the description that the running gateway gives of itself: an endpoint that is added
# is called without a word here. Values come from the schemas; for some names a good one is known, so that calls do
# something, and nothing that the flows rest on.

package Torture::Calls;

use strict;
use warnings;

use KeelsonTest;
use MIME::Base64 qw(decode_base64);
use POSIX qw(strftime);

my $nowhere = '0194e0a0-0000-7000-8000-000000000000';
my $picture = decode_base64('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==');

# Of several callers each has a share of the endpoints to begin with: place, of so many.
sub new
{
	my ($class, $client, $description, %given) = @_;
	my $self = bless { client => $client, description => $description, %given, found => {}, answered => {} }, $class;
	my $paths = $description->{paths};
	for my $path (sort keys %$paths)
	{
		for my $method (grep { ref $paths->{$path}{$_} eq 'HASH' && $paths->{$path}{$_}{responses} } sort keys %{ $paths->{$path} })
		{
			my $operation = $paths->{$path}{$method};
			push @{ $self->{operations} }, { %$operation, method => uc $method, path => $path, name => uc($method) . " $path",
				documented => { map { $_ => 1 } keys %{ $operation->{responses} } } };
		}
	}
	return $self;
}

# What of its share it has not got an answer from.
sub left
{
	my ($self) = @_;
	my @share = grep { $_ % $self->{of} == $self->{place} } 0 .. $#{ $self->{operations} };
	return grep { !$self->{answered}{ $_->{name} } } @{ $self->{operations} }[@share];
}

# One call: of what is left, mostly, else at random.
sub step
{
	my ($self) = @_;
	my @left = $self->left;
	my @all  = @left && rand() < 0.7 ? @left : @{ $self->{operations} };
	my $operation = $all[ rand @all ];
	$self->{person} ||= $self->{client}->person or return;
	$self->{victims} = [ grep { $_ } map { $self->{client}->person } 1 .. 2 ] unless @{ $self->{victims} || [] };
	return $self->listen_to($operation) if ($operation->{responses}{200} || {})->{content}{'text/event-stream'};
	my $reply = $self->call($operation);
	$self->{answered}{ $operation->{name} } ||= $reply->{word} eq 'told';
	$self->learn($operation, $reply);
	return;
}

# Calls what is left, for as long as that becomes less.
sub finish
{
	my ($self) = @_;
	my ($fewest, $since) = (scalar $self->left, time());
	while ($fewest && time() < $since + 30 * $KeelsonTest::slow)
	{
		$self->step;
		my $left = $self->left;
		($fewest, $since) = ($left, time()) if $left < $fewest;
	}
	return;
}

sub resolve
{
	my ($self, $schema) = @_;
	return $schema unless ($schema->{'$ref'} || '') =~ m{schemas/(.*)$};
	return $self->{description}{components}{schemas}{$1};
}

# Values that mean something, by the name of the argument.
sub known
{
	my ($self, $name, $operation) = @_;
	my $client = $self->{client};
	my $victims = $self->{victims};
	my $victim = $victims->[ rand @$victims ];
	my %known = (
		url => sub { $self->{sink}->url('/now') },            events => sub { ['order.*'] },
		type => sub { 'order.paid' },                          service => sub { (qw(openai gemini groq))[ rand 3 ] },
		apiKey => sub { 'sk-' . $client->secret . 'x' x 20 },  network => sub { '203.0.113.' . int(rand 250) },
		userIds => sub { [ map { $_->{id} } @$victims ] },     userId => sub { $victim->{id} },
		email => sub { rand() < 0.5 ? $victim->{email} : $client->fresh('load') . '@torture.example.com' },
		password => sub { rand() < 0.5 ? 'horse ' . $client->secret : $victim->{password} },
		currentPassword => sub { $self->{person}{password} },  newPassword => sub { 'horse ' . $client->secret },
		token => sub { $client->secret },                      code => sub { sprintf '%06d', rand 1e6 },
		refreshToken => sub { 'ksr_' . $client->secret },      deviceToken => sub { 'ksd_' . $client->secret },
		roles => sub { rand() < 0.5 ? ['user'] : ['support'] },
		permissions => sub { ['users.read'] },                 scopes => sub { ['usage.write'] },
		tier => sub { (qw(free pro studio))[ rand 3 ] },       preset => sub { 'hmac' },
		source => sub { 'sandbox' },                           secret => sub { $client->secret },
		settings => sub { {} },                                payload => sub { { n => 1 } },
		filter => sub { '$.n > 0' },                           transform => sub { { n => '{{ $.data.n }}' } },
		headers => sub { { 'X-Torture' => $client->secret } }, retrySchedule => sub { [ 1, 1 ] },
		feature => sub { 'load' },                             minutes => sub { 0.5 },
		preferences => sub { { theme => 'dark' } },            allowedNetworks => sub { ['127.0.0.0/8'] },
		overlapSeconds => sub { int rand 100 },                label => sub { $client->fresh('load') },
		occurredAt => sub { strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time() - 3600)) },
		operation => sub { (qw(block unblock end_sessions))[ rand 3 ] },
		limit => sub { 1 + int rand 100 },                     seconds => sub { rand 0.3 },
		since => sub { '2025-01-15T00:00:00Z' },               expiresAt => sub { '2099-01-15T00:00:00Z' },
		name => sub { $operation->{path} =~ /jobs/ ? 'cleanup-database' : $operation->{path} =~ /roles/ ? 'helper' : $client->fresh('name') },
	);
	$known{since} = $known{until} = sub { '2025-01-15' } if $operation->{path} =~ /usage/;
	$known{key} = sub { $client->fresh('key') };
	delete $known{events} if $operation->{path} =~ m{/usage$};
	return $known{$name} ? $known{$name}->() : undef;
}

sub value
{
	my ($self, $schema, $name, $operation, $depth) = @_;
	my $known = $self->known($name, $operation);
	return $known if defined $known;
	$schema = $self->resolve($schema);
	return $schema->{enum}[ rand @{ $schema->{enum} } ] if $schema->{enum};
	my ($type) = ref $schema->{type} ? @{ $schema->{type} } : ($schema->{type} // 'string');
	return $schema->{minimum} // 1 if $type =~ /integer|number/;
	return rand() < 0.5 ? JSON::PP::true : JSON::PP::false if $type eq 'boolean';
	return [ ($depth || 0) > 3 ? () : $self->value($schema->{items} || {}, $name, $operation, ($depth || 0) + 1) ] if $type eq 'array';
	return $self->object($schema, $operation, ($depth || 0) + 1) if $type eq 'object';
	my $format = $schema->{format} || '';
	return $format eq 'uuid' ? $nowhere : $format eq 'date-time' ? '2025-01-15T00:00:00Z' : $format eq 'date' ? '2025-01-15' : 'a word';
}

# What is required, and now and then the rest.
sub object
{
	my ($self, $schema, $operation, $depth) = @_;
	my %needed = map { $_ => 1 } @{ $schema->{required} || [] };
	my $properties = $schema->{properties} || {};
	return { map { $_ => $self->value($properties->{$_}, $_, $operation, $depth) } grep { $needed{$_} || rand() < 0.5 } sort keys %$properties };
}

# Something that cannot be right in place of one value.
sub spoil
{
	my ($self, $body) = @_;
	my @names = sort keys %$body or return $body;
	my @wrong = ({ a => [1] }, [ [] ], -1e300, "\x{1f40e}" x 3000, '', JSON::PP::true, '2025-99-99');
	return { %$body, $names[ rand @names ] => $wrong[ rand @wrong ] };
}

# An id for a place in a path: one that a reply to the path before it has told, else a victim's, else none.
sub id_for
{
	my ($self, $operation, $before, $name) = @_;
	my $known = $self->known($name, $operation);
	return $known if $name ne 'id' && defined $known;
	return $self->known('source', $operation) if $before =~ m{/webhooks$} && $operation->{security} && !@{ $operation->{security} };
	return $self->known('userId', $operation) if $before =~ m{/users$};
	my $found = $self->{found}{$before} || [];
	return @$found && rand() < 0.9 ? $found->[ rand @$found ] : $nowhere;
}

sub call
{
	my ($self, $operation) = @_;
	my $target = $operation->{path};
	while ($target =~ m{^(.*?)/\{(\w+)\}})
	{
		my $id = $self->id_for($operation, $1, $2);
		$target =~ s/\{\w+\}/$id/;
	}
	my @query;
	for my $parameter (grep { ($_->{in} || '') eq 'query' && ($_->{required} || rand() < 0.3) && $_->{name} ne 'cursor' } @{ $operation->{parameters} || [] })
	{
		my $value = $self->value($parameter->{schema}, $parameter->{name}, $operation);
		$value = 'word' if ref $value;
		push @query, "$parameter->{name}=" . $value =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ger;
	}
	$target .= '?' . join '&', @query if @query;
	my %options = (operation => $operation->{name}, documented => $operation->{documented}, $self->content($operation), $self->credential($operation));
	$options{headers}{'Idempotency-Key'} = $self->{client}->fresh('load') if $operation->{method} ne 'GET' && rand() < 0.3;
	return $self->{client}->ask($operation->{method}, $target, %options);
}

sub content
{
	my ($self, $operation) = @_;
	my $content = ($operation->{requestBody} || {})->{content} || {};
	my ($type) = grep { /json/ } sort keys %$content;
	if ($type)
	{
		my $body = $self->object($self->resolve($content->{$type}{schema}), $operation);
		return (json => rand() < 0.1 ? $self->spoil($body) : $body);
	}
	($type) = sort keys %$content or return;
	return (body => '{"a": 1}', headers => { 'Content-Type' => 'application/json' }) if $type =~ /\*/;
	return (body => $picture, headers => { 'Content-Type' => 'image/png' }) if $type =~ /image/;
	return (body => 'bytes', headers => { 'Content-Type' => $type });
}

# Who asks: whom the endpoint wants, or now and then somebody else.
sub credential
{
	my ($self, $operation) = @_;
	my @who = $operation->{path} =~ m{/cron/} ? ($self->{cron}) : ();
	push @who, $operation->{path} =~ m{/admin/|/audit/|/users/} ? ($self->{client}->token_of($self->{admin})) x 3 : ($self->{person}{token}) x 3;
	push @who, $self->{person}{token}, undef if rand() < 0.2;
	my $token = $who[ rand @who ];
	return defined $token ? (token => $token) : ();
}

# Whoever cannot sign in any more is replaced; ids are kept for the paths below.
sub learn
{
	my ($self, $operation, $reply) = @_;
	my $status = $reply->{status};
	delete $self->{person} if $status == 401 || $operation->{path} =~ m{^/api/(user/profile|auth/logout|auth/totp)} && $operation->{method} ne 'GET';
	shift @{ $self->{victims} } if $operation->{path} =~ m{/users} && $operation->{method} ne 'GET' && rand() < 0.3;
	return if $status >= 300 || $operation->{path} =~ m{/users} || ref $reply->{json} ne 'HASH';
	my $data = $reply->{json}{data};
	my @ids = grep { defined && /^[0-9a-f-]{36}$/ } map { ref $_ eq 'HASH' ? $_->{id} : undef } ref $data eq 'ARRAY' ? @$data : $data;
	my $kept = $self->{found}{ $operation->{path} } ||= [];
	push @$kept, @ids;
	splice @$kept, 0, @$kept - 20 if @$kept > 20;
	return;
}

# A stream has no end: we leave in the midst of it.
sub listen_to
{
	my ($self, $operation) = @_;
	my $socket = eval { $self->{client}->gateway->connect } or return;
	syswrite $socket, "GET $operation->{path} HTTP/1.1\r\nHost: torture\r\nAuthorization: Bearer $self->{person}{token}\r\n\r\n";
	my $reply = KeelsonTest::Gateway::parse_reply(scalar KeelsonTest::Gateway::read_all($socket, 0.3));
	$self->{client}{asked}{ $operation->{name} }{ $reply->{status} }++ if $reply->{status};
	$self->{answered}{ $operation->{name} } ||= $reply->{status};
	return;
}

1;
