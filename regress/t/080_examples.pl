# Every command and example of the README and of docs/ is run. A fenced block is an example if its first word
# after the fence is sql or sh; one that cannot be run here says so on the line before: <!-- not run: why -->.
# A page's sql blocks run in order in one session as administrator; its sh blocks in one shell, with the
# gateway's address in place of the default one.

use strict;
use warnings;

use File::Temp ();
use KeelsonTest;
use Test::More;

# Blocks of a page: [language, text, line], of the given languages.
sub blocks
{
	my ($path, @languages) = @_;
	my ($skip, $language, $text, $start, @found) = (0);
	my $number = 0;
	for my $line (split /\n/, slurp($path))
	{
		$number++;
		if (!defined $language && $line =~ /^```(\w*)/)
		{
			($language, $text, $start) = ($1, '', $number);
		}
		elsif (defined $language && $line =~ /^```\s*$/)
		{
			push @found, [ $language, $text, $start ] if !$skip && grep { $_ eq $language } @languages;
			($language, $skip) = (undef, 0);
		}
		elsif (defined $language) { $text .= "$line\n"; }
		elsif ($line =~ /^<!-- not run/) { $skip = 1; }
	}
	return @found;
}

my $root = $KeelsonTest::root;
my @pages = grep { -e } "$root/README.md", sort glob("$root/docs/*.md"), glob("$root/extension/keelson/*/README.md");
ok(@pages > 0, 'there are pages');
my $count = 0;

for my $path (@pages)
{
	(my $name = $path) =~ s{^\Q$root\E/}{};
	my @sql = blocks($path, 'sql');
	my @sh = grep { $_->[1] !~ /^\s*(make|git|sudo|apt-get|systemctl)\b/m } blocks($path, 'sh');
	next unless @sql || @sh;
	subtest $name => sub {
		(my $short = $name) =~ s/[^a-z]+/_/gi;
		my $keelson = KeelsonTest->new("docs_$short");
		my $gateway = $keelson->gateway(KEELSON_ENV => 'development');
		my $port = $gateway->port;
		$gateway->post('/api/auth/register', { email => 'ada@example.com', password => 'correct horse battery staple' })
			if !grep { $_->[1] =~ m{auth/register} } @sh;
		for my $block (@sql, @sh)
		{
			my ($language, $text, $line) = @$block;
			$count++;
			my ($status, $said);
			if ($language eq 'sql')
			{
				my ($exit, $output, $messages) = $keelson->try_sql($text);
				($status, $said) = ($exit, "$output\n$messages");
			}
			else
			{
				$text =~ s/(?:127\.0\.0\.1|localhost):8080/127.0.0.1:$port/g;
				my $script = File::Temp->new;
				print $script "set -euo pipefail\ncd \"\$HOME\"\ncurl() { command curl --fail-with-body -sS \"\$\@\"; }\n$text";
				close $script;
				local $ENV{HOME} = $keelson->node->basedir;
				local $ENV{PGHOST} = $keelson->node->host;
				local $ENV{PGPORT} = $keelson->node->port;
				local $ENV{PGDATABASE} = 'keelson';
				$said = `bash '$script' 2>&1`;
				$status = $?;
			}
			is($status, 0, "$language at line $line") or diag "$text\n$said";
			wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 2);
		}
		$keelson->stop;
	};
}

note "$count examples were run";
done_testing();
