# Sessions of psql that emit events as fast as they can, half of them of one key. What psql prints is acknowledged. They keep
# the courier busy whatever the gateway is up to.

package Torture::Emitter;

use strict;
use warnings;

use KeelsonTest;

# A user with endpoints whose receivers answer at once, after a while, not at first, and as the weather is. Arguments: the
# run, and a client that writes down what is to be looked for.
sub new
{
	my ($class, $run, $client) = @_;
	my $self = bless { run => $run, client => $client, node => $run->{keelson}->node, file => "$run->{folder}/emitted." . $client->number }, $class;
	$self->{user} = $run->sql(sprintf q{select keelson.user_create('emitter%d@torture.example.com', 'horse %s')}, $client->number, $client->secret);
	for my $path ('/ordered', '/slow/40', "/fail/$self->{user}/20", '/as/weather')
	{
		my $place = "$path?$self->{user}";
		my $url = $run->{sink}->url($place);
		my @lines = split /\n/, $run->sql("begin; select keelson.act_as('$self->{user}'); "
			. "select w.id, w.secret from keelson.webhook_create(url => '$url', events => '{parcel.*}', retry_schedule => array_fill(1, array[32])) as w; commit");
		my ($id, $secret) = split /\|/, $lines[-1];
		$client->said('endpoint', id => $id, user => $self->{user}, path => $place, secret => $secret);
	}
	return $self;
}

# A hundred events, if the server lives so long.
sub step
{
	my ($self) = @_;
	local %ENV = (%ENV, PGAPPNAME => 'emitter', PGHOST => $self->{node}->host, PGPORT => $self->{node}->port);
	open my $psql, '|-', "psql -qAtX -v ON_ERROR_STOP=1 keelson >>$self->{file} 2>>$self->{file}.errors" or die "psql: $!\n";
	for (1 .. 50)
	{
		printf $psql qq{select keelson.webhook_emit('parcel.sent', '{"n": %d, "isOrdered": true}', '%s', 'key') from pg_sleep(0.02);\n}, ++$self->{n}, $self->{user};
		printf $psql qq{select keelson.webhook_emit('parcel.sent', '{"n": %d, "isOrdered": false}', '%s');\n}, $self->{n}, $self->{user};
	}
	close $psql;
	return;
}

# What was acknowledged.
sub finish
{
	my ($self) = @_;
	$self->{client}->said('emitted', id => $_) for grep { /^[0-9a-f-]{36}$/ } -e $self->{file} ? split /\n/, slurp($self->{file}) : ();
	return;
}

1;
