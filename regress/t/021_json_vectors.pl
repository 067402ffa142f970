# JSONTestSuite through the gateway: y_ accepted, n_ refused as malformed, i_ either, never a crash.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $folder = ($ENV{VECTORS} // '') . '/json/test_parsing';
plan skip_all => 'no VECTORS' unless $ENV{VECTORS} && -d $folder;

my $keelson = KeelsonTest->new('json');
$keelson->product;
my $gateway = $keelson->gateway;
my (%count, @wrong);
for my $path (sort glob "$folder/*.json")
{
	my ($kind, $name) = $path =~ m{/([yni])_([^/]*)\.json$} or next;
	my $content = slurp($path);
	# A value stands inside the object that a body must be; what is no JSON is none by itself either.
	my %bodies = (wrapped => "{\"payload\":$content}", $kind eq 'n' && length $content ? (alone => $content) : ());
	# Repeated names and U+0000 are good JSON that the contract refuses.
	my $stricter = $name =~ /duplicated_key|null_escape|escaped_null/;
	$count{$kind}++;
	for my $form (sort keys %bodies)
	{
		my $reply = $gateway->request('POST', '/api/product/echo', body => $bodies{$form}, headers => { 'Content-Type' => 'application/json' });
		my $malformed = $reply->{status} == 400 && ($reply->{json}{code} // '') eq 'MALFORMED_JSON';
		push @wrong, "$kind $name $form: $reply->{status} $reply->{content}"
			if $kind eq 'y' && $malformed != ($stricter ? 1 : 0) || $kind eq 'n' && !$malformed || $reply->{status} >= 500;
	}
}
is_deeply(\@wrong, [], 'every vector is judged rightly');
cmp_ok($count{y}, '>', 90, 'accepted ones');
cmp_ok($count{n}, '>', 180, 'refused ones');
ok($gateway->running, 'the gateway lives');
done_testing();
$keelson->stop;
