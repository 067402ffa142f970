# Every command and example of the README and of docs/ is run. A fenced block is an example if its first word
# after the fence is sql or sh; one that cannot be run here says so on the line before: <!-- not run: why -->.
# A page's blocks run in order: sql as administrator; sh with the gateway's address in place of the default one,
# and with the variables (in small letters) that the blocks before have set. The door's own commands have their own test.

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
	my @blocks = grep { $_->[0] eq 'sql' || $_->[1] !~ /^\s*(make|git|sudo|apt-get|systemctl)\b/m } blocks($path, 'sql', 'sh');
	next unless @blocks;
	subtest $name => sub {
		(my $short = $name) =~ s/[^a-z]+/_/gi;
		my $keelson = KeelsonTest->new("docs_$short", conf => "keelson.environment = development");
		my $gateway = $keelson->gateway(KEELSON_ENV => 'development');
		my $port = $gateway->port;
		$gateway->post('/api/auth/register', { email => 'ada@example.com', password => 'correct horse battery staple' })
			if !grep { $_->[1] =~ m{auth/register.*ada.example}s } @blocks;
		for my $block (@blocks)
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
				print $script <<"END", $text, <<'END';
set -euo pipefail
cd "\$HOME"
curl() { command curl --fail-with-body -sS "\$\@"; }
[ ! -e variables ] || . ./variables
END
kept=$(compgen -v | grep -E '^[a-z][a-z0-9_]*$' || true)
[ -z "$kept" ] || declare -p $kept >"$HOME/variables"
END
				close $script;
				local $ENV{HOME} = $keelson->node->basedir;
				local $ENV{PGHOST} = $keelson->node->host;
				local $ENV{PGPORT} = $keelson->node->port;
				local $ENV{PGDATABASE} = 'keelson';
				# A route that a block before has registered is served within a second.
				wait_until(sub { $said = `bash '$script' 2>&1`; ($status = $?) == 0 }, 1.5);
			}
			is($status, 0, "$language at line $line") or diag "$text\n$said";
			wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 2);
		}
		$keelson->stop;
	};
}

note "$count examples were run";
done_testing();
