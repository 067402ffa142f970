# Every command and example of the README, of docs/, of examples/ and of the capabilities' pages is run, and what pages
# refer to is there. A fenced block names its language: sql and sh are run, json is read, text and ini are fragments.
# One that cannot be run here says so on the line before, <!-- not run: why -->, and may be of any language.
# A page's blocks run in order: sql as administrator; sh with the gateway's address in place of the default one, and with
# the variables (in small letters) and functions that the blocks before have set. A line of sh that ends in a comment such
# as "# 429 QUOTA_EXCEEDED" is one that is refused with this code. The door's own commands have their own test; here they
# must be targets that exist.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Temp ();
use KeelsonTest;
use Test::More;

my $root = $KeelsonTest::root;
my %languages = map { $_ => 1 } qw(sql sh json text ini);
my @pages = (
	"$root/README.md",
	map { sort glob "$root/$_" } 'docs/*.md', 'examples/*/README.md', 'extension/keelson/*/README.md', 'gateway/README.md', 'regress/README.md');
my @targets = slurp("$root/Makefile") =~ /^([a-z][a-z0-9-]*):/mg;

sub short { return $_[0] =~ s{^\Q$root\E/}{}r }

# Blocks of a page: {language, text, line, skipped}.
sub blocks
{
	my ($path) = @_;
	my ($skipped, $block, @found);
	my $number = 0;
	for my $line (split /\n/, slurp($path))
	{
		$number++;
		if (!$block && $line =~ /^\s*```(.*)$/)
		{
			$block = { language => $1, text => '', line => $number, skipped => $skipped };
		}
		elsif ($block && $line =~ /^\s*```\s*$/)
		{
			push @found, $block;
			($block, $skipped) = (undef, undef);
		}
		elsif ($block) { $block->{text} .= "$line\n"; }
		elsif ($line =~ /^<!-- not run: \S/) { $skipped = 1; }
	}
	push @found, { language => 'that is not closed', line => $block->{line}, text => '' } if $block;
	return @found;
}

# Variables that a command is given.
my $variables = qr/(?:[A-Z_]+=(?:'[^']*'|\S*)\s+)*/;

# Is every line a command of the door, or of git, so that the block is none to run here?
sub is_door
{
	my ($block) = @_;
	my @commands = grep { /\S/ } map { s/(^|\s)#.*//r } split /\n/, $block->{text};
	return $block->{language} eq 'sh' && !grep { !m{^$variables(?:git (?:pull|clone)\b|make(?: |$)|examples/)} } @commands;
}

sub runnable { return grep { $_->{language} =~ /^(?:sql|sh)$/ && !$_->{skipped} && !is_door($_) } @_; }

# What is said of a page's blocks without running them.
sub check_blocks
{
	my ($name, @blocks) = @_;
	for my $block (@blocks)
	{
		my $at = "$name, line $block->{line}";
		ok($languages{ $block->{language} } || $block->{skipped}, "$at: a block of a language that is run or read") or diag "\"$block->{language}\"";
		ok(eval { json_decode($block->{text}) }, "$at: JSON") or diag $@ if $block->{language} eq 'json';
		next unless is_door($block);
		ok(-x "$root/$_", "$at: $_ can be run") for $block->{text} =~ m{^(examples/\S+)}mg;
	}
	return;
}

# The anchor that a heading gets.
sub anchor
{
	my ($heading) = @_;
	$heading =~ s/\[([^\]]*)\]\([^)]*\)/$1/g;
	$heading = lc $heading;
	$heading =~ s/[^\w\- ]//g;
	return $heading =~ tr/ /-/r;
}

# Links lead somewhere, and targets of make that are spoken of exist.
sub check_references
{
	my ($path) = @_;
	my $name = short($path);
	my $text = slurp($path) =~ s/^\s*```.*?^\s*```//gmsr;
	for my $link ($text =~ /\]\(([^)\s]+)\)/g)
	{
		next if $link =~ /^[a-z]+:/;
		my ($file, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
		my $target = $file eq '' ? $path : dirname($path) . "/$file";
		my $is_there = -e $target;
		$is_there &&= grep { anchor($_) eq $anchor } slurp($target) =~ /^#+ (.*)$/mg if defined $anchor;
		ok($is_there, "$name: the link $link leads somewhere");
	}
	for my $target (slurp($path) =~ /(?:`|^\s*)${variables}make ([a-z][a-z0-9-]*)/mg)
	{
		ok((grep { $_ eq $target } @targets), "$name: make $target is there");
	}
	return;
}

# The names keelson.x of a page that name nothing.
sub unknown_names
{
	my ($keelson, $path) = @_;
	my %names = map { $_ => 1 } slurp($path) =~ /(?<![\w.\/-])keelson\.([a-z_0-9]+[a-z0-9])(?![\w*.\/-]|_\*)/g;
	return if !%names;
	my $list = join ', ', map { "('$_')" } sort keys %names;
	return $keelson->sql(<<"SQL");
select string_agg(name, ' ' order by name) from (values $list) as named (name)
where name not in ('conf', 'dump', 'env', 'service', 'control')
    and not exists (select from pg_proc where pronamespace = 'keelson'::regnamespace and proname = name)
    and to_regclass('keelson.' || name) is null and to_regtype('keelson.' || name) is null
    and not exists (select from pg_settings as s where s.name = 'keelson.' || named.name)
SQL
}

# The codes of the contract that docs/api.md does not have in the line of their status.
sub missing_codes
{
	my ($keelson) = @_;
	my %lines = map { my $line = $_; map { $_ => $line } $line =~ /\b([45]\d\d)\b/g } slurp("$root/docs/api.md") =~ /^(\| [45]\d\d.*)$/mg;
	my @codes = split /\n/, $keelson->sql('select status, code from keelson._openapi_codes()');
	return grep { my ($status, $code) = split /\|/; ($lines{$status} // '') !~ /`$code`/ } @codes;
}

# The settings that have no row in docs/configuration.md.
sub missing_settings
{
	my ($keelson) = @_;
	my %rows = map { $_ => 1 } slurp("$root/docs/configuration.md") =~ /^\| `(keelson\.[a-z_0-9]+)` \|/mg;
	return grep { !$rows{$_} } split /\n/, $keelson->sql(q{select name from pg_settings where name like 'keelson.%' order by 1});
}

# A line that is refused, as one that succeeds when it is.
sub refused
{
	my ($command, $code) = @_;
	return "! refusal=\$($command 2>&1) && grep -q '\"code\":\"$code\"' <<<\"\$refusal\" || { echo \"not refused: \$refusal\"; exit 1; }\n";
}

# Runs a block; its status and what it said.
sub run_sh
{
	my ($keelson, $port, $text) = @_;
	my $said;
	$text =~ s/(?:127\.0\.0\.1|localhost):8080/127.0.0.1:$port/g;
	$text =~ s/^(.*\S)\s+# 4\d\d ([A-Z_]+)\n/refused($1, $2)/gme;
	my $script = File::Temp->new;
	print $script <<'BEFORE', $text, <<'AFTER';
set -euo pipefail
cd "$HOME"
curl() { command curl --fail-with-body -sS "$@"; }
[ ! -e variables ] || . ./variables
BEFORE
unset -f curl
unset refusal
kept=$(compgen -v | grep -E '^[a-z][a-z0-9_]*$' || true)
[ -z "$kept" ] || declare -p $kept >"$HOME/variables"
declare -f >>"$HOME/variables"
AFTER
	close $script;
	local $ENV{HOME} = $keelson->node->basedir;
	local $ENV{PGHOST} = $keelson->node->host;
	local $ENV{PGPORT} = $keelson->node->port;
	local $ENV{PGDATABASE} = 'keelson';
	$said = `bash '$script' 2>&1`;
	return ($?, $said);
}

# The product of a folder of examples/: put in twice, since that changes nothing, and tested by its own tests.
sub install_product
{
	my ($keelson, $folder) = @_;
	for my $file (glob("$folder/*.sql"))
	{
		my $is_test = $file =~ m{/test\.sql$};
		for (1 .. ($is_test ? 1 : 2))
		{
			my ($exit, undef, $messages) = $keelson->try_sql($is_test ? slurp($file) : 'begin;' . slurp($file) . 'commit;');
			is($exit, 0, short($file)) or diag $messages;
		}
	}
	return;
}

# An installation as "make up" leaves it, whose last words have been followed.
sub installation
{
	my ($name) = @_;
	my $keelson = KeelsonTest->new("docs_$name", conf => "keelson.environment = development");
	my $gateway = $keelson->gateway(KEELSON_ENV => 'development');
	my ($words) = slurp("$root/scripts/up") =~ /-d '(\{"email".*?\})'/;
	$gateway->post('/api/auth/register', json_decode($words));
	return ($keelson, $gateway);
}

# A route is served within a second of its registration; the next block counts on it.
sub await_routes
{
	my ($gateway, $text) = @_;
	for my $path ($text =~ /keelson\.route\('[A-Z]+ \/?([^']+)'/g)
	{
		my $target = '/api/' . $path =~ s/:\w+/01940000-0000-7000-8000-000000000000/gr;
		ok(wait_until(sub { $gateway->request('OPTIONS', $target)->{status} != 404 }, 10), "$target is served");
	}
	return;
}

# Runs a page's blocks that can be run.
sub run_page
{
	my ($keelson, $gateway, $path) = @_;
	install_product($keelson, dirname($path)) if $path =~ m{/examples/};
	for my $block (runnable(blocks($path)))
	{
		my ($status, $said);
		if ($block->{language} eq 'sql')
		{
			my ($exit, $output, $messages) = $keelson->try_sql($block->{text});
			($status, $said) = ($exit, "$output\n$messages");
			await_routes($gateway, $block->{text});
		}
		else
		{
			($status, $said) = run_sh($keelson, $gateway->port, $block->{text});
		}
		is($status, 0, short($path) . ", $block->{language} at line $block->{line}") or diag "$block->{text}\n$said";
		wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 2);
	}
	return;
}

for my $path (@pages)
{
	my @blocks = blocks($path);
	subtest short($path) => sub {
		check_blocks(short($path), @blocks);
		check_references($path);
		return pass('nothing to run') if !runnable(@blocks);
		my ($keelson, $gateway) = installation(short($path) =~ s/[^a-z]+/_/gir);
		run_page($keelson, $gateway, $path);
		$keelson->stop;
	};
}

subtest 'all pages, one after the other, on one installation' => sub {
	my ($keelson, $gateway) = installation('all');
	is(join(' ', missing_codes($keelson)), '', 'docs/api.md names every error code');
	is(join(' ', missing_settings($keelson)), '', 'docs/configuration.md has every setting');
	for my $path (@pages)
	{
		is(unknown_names($keelson, $path) // '', '', short($path) . ': what it names is there');
		run_page($keelson, $gateway, $path);
	}
	$keelson->stop;
};

done_testing();
