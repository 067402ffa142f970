# docs/performance.md and the README's table are what the committed results say, to the letter.

use strict;
use warnings;

use File::Copy qw(copy);
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use KeelsonTest;
use Test::More;

my $root = $KeelsonTest::root;
my $program = "$root/bench/performance-doc";

is(system($program, 'check', $root), 0, 'the pages are what is written from the results');

# A copy whose results say something else.
my $other = tempdir(CLEANUP => 1);
make_path("$other/docs", "$other/bench");
copy("$root/$_", "$other/$_") or die "$_: $!" for qw(README.md docs/performance.md bench/results-peers.json);
my $results = json_decode(slurp("$other/bench/results-peers.json"));
for my $figure (grep { $_->{id} !~ /\.keelson$/ } map { @{ $_->{results} } } values %$results)
{
	$figure->{$_} *= 3 for grep { defined $figure->{$_} } qw(median ratio cpu_us);
}
open my $file, '>', "$other/bench/results-peers.json" or die "results: $!";
print $file json_encode($results);
close $file;
my $said = `'$program' check '$other' 2>&1`;
isnt($?, 0, 'other results are other pages');
like($said, qr{/README\.md is not}, 'the README is named');
like($said, qr{/docs/performance\.md is not}, 'the page is named');
is(system($program, $other), 0, 'they are written');
is(system($program, 'check', $other), 0, 'and are as the other results say then');

done_testing();
