-- The courier's guard, and what can be tried without sending anything.
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- Addresses: what is public is allowed, nothing else is.
create temporary table addresses (address text, is_public boolean);
insert into addresses
select address, true
from (values
    ('1.1.1.1'), ('8.8.8.8'), ('9.255.255.255'), ('11.0.0.0'), ('93.184.216.34'), ('100.63.255.255'), ('100.128.0.0'),
    ('126.255.255.255'), ('128.0.0.0'), ('169.253.255.255'), ('169.255.0.0'), ('172.15.255.255'), ('172.32.0.0'),
    ('191.255.255.255'), ('192.0.1.0'), ('192.0.3.0'), ('192.88.98.255'), ('192.88.100.0'), ('192.167.255.255'),
    ('192.169.0.0'), ('198.17.255.255'), ('198.20.0.0'), ('198.51.99.255'), ('198.51.101.0'), ('203.0.112.255'),
    ('203.0.114.0'), ('223.255.255.255'), ('2001:4860:4860::8888'), ('2606:4700:4700::1111'), ('2a00:1450:4001:800::200e'),
    ('2001:200::1'), ('2400:cb00::1'), ('3ffe:ffff::1'), ('::ffff:8.8.8.8'), ('::ffff:808:808'), ('64:ff9b::8.8.8.8'), ('2002:808:808::1')
) as given (address)
union all
select address, false
from (values
    ('0.0.0.0'), ('0.0.0.1'), ('0.255.255.255'), ('10.0.0.0'), ('10.1.2.3'), ('10.255.255.255'), ('100.64.0.0'), ('100.100.100.200'),
    ('100.127.255.255'), ('127.0.0.0'), ('127.0.0.1'), ('127.1.1.1'), ('127.255.255.255'), ('169.254.0.0'), ('169.254.169.254'),
    ('169.254.170.2'), ('169.254.255.255'), ('172.16.0.0'), ('172.20.10.1'), ('172.31.255.255'), ('192.0.0.0'), ('192.0.0.8'),
    ('192.0.0.170'), ('192.0.0.192'), ('192.0.0.255'), ('192.0.2.0'), ('192.0.2.255'), ('192.88.99.1'), ('192.168.0.0'), ('192.168.1.1'),
    ('192.168.255.255'), ('198.18.0.0'), ('198.19.255.255'), ('198.51.100.1'), ('203.0.113.1'), ('224.0.0.0'), ('224.0.0.1'),
    ('239.255.255.255'), ('240.0.0.1'), ('255.255.255.254'), ('255.255.255.255'), ('::'), ('::1'), ('::2'), ('::7f00:1'), ('::10.0.0.1'),
    ('100::1'), ('2001::1'), ('2001:0:1::1'), ('2001:10::1'), ('2001:20::1'), ('2001:1ff::1'), ('2001:db8::1'),
    ('2001:db8:ffff:ffff::1'), ('2620:4f:8000::1'), ('3fff::1'), ('3fff:fff::1'), ('4000::1'), ('5f00::1'), ('fc00::1'), ('fd00:ec2::254'), ('fdff::1'),
    ('fe80::1'), ('febf::1'), ('fec0::1'), ('ff00::1'), ('ff02::1'), ('ffff::1'), ('64:ff9b:1::1'), ('1fff::1')
) as given (address)
-- The first and the last address of each network that is not public.
union all
select host(edge.address), false
from (values
    ('0.0.0.0/8'::inet), ('10.0.0.0/8'), ('100.64.0.0/10'), ('127.0.0.0/8'), ('169.254.0.0/16'), ('172.16.0.0/12'), ('192.0.0.0/24'), ('192.0.2.0/24'),
    ('192.31.196.0/24'), ('192.52.193.0/24'), ('192.88.99.0/24'), ('192.168.0.0/16'), ('192.175.48.0/24'), ('198.18.0.0/15'), ('198.51.100.0/24'),
    ('203.0.113.0/24'), ('224.0.0.0/4'), ('240.0.0.0/4'), ('2001::/23'), ('2001:db8::/32'), ('2620:4f:8000::/48'), ('3fff::/20'), ('fc00::/7'), ('fe80::/10'), ('ff00::/8')
) as given (network)
cross join lateral (values (network(given.network)), (broadcast(given.network))) as edge (address)
-- IPv4 wrapped in IPv6, in each of the ways.
union all
select wrapped.address, false
from (values ('10.1.2.3'), ('127.0.0.1'), ('169.254.169.254'), ('172.16.0.1'), ('192.168.1.1'), ('100.64.0.1'), ('0.0.0.0'), ('224.0.0.1'), ('192.0.2.1'), ('198.18.0.1')) as inside (address)
cross join lateral (
    select '::ffff:' || inside.address
    union all select '64:ff9b::' || inside.address
    union all select '2002:' || to_hex(split_part(inside.address, '.', 1)::int * 256 + split_part(inside.address, '.', 2)::int)
        || ':' || to_hex(split_part(inside.address, '.', 3)::int * 256 + split_part(inside.address, '.', 4)::int) || '::1'
    union all select '::' || inside.address
) as wrapped (address)
union all
select address, false
from (values (''), ('localhost'), ('127.1'), ('0x7f.0.0.1'), ('2130706433'), ('1.1.1'), ('1.1.1.256'), (' 1.1.1.1'), ('fe80::1%eth0'), ('[::1]')) as given (address);

select count(*) > 150 as are_many from addresses;
select address, is_public from addresses where keelson._address_allowed(address) <> is_public order by 1;
-- Ports.
select port, keelson._address_allowed('1.1.1.1', port)
from (values (0), (22), (25), (80), (443), (3306), (5432), (6379), (8080), (8443), (9200), (65535)) as given (port)
order by port;

-- URLs that cannot be targets.
create temporary table urls (url text);
insert into urls
select url
from (values
    (''), ('example.com'), ('//example.com'), ('https:'), ('https://'), ('https:///hooks'), ('https://?a'), ('ftp://example.com/'), ('file:///etc/passwd'),
    ('gopher://example.com/'), ('dict://example.com/'), ('ldap://example.com/'), ('smtp://example.com/'), ('telnet://example.com'), ('javascript:alert(1)'),
    ('data:text/plain,x'), ('unix:///tmp/socket'), ('HTTPS//example.com'), ('https:example.com'), ('https:\\example.com'), ('https://example.com\@127.0.0.1/'),
    ('https://user@example.com/'), ('https://user:secret@example.com/'), ('https://:secret@example.com/'), ('https://example.com:secret@127.0.0.1/'),
    ('https://127.0.0.1@example.com/'), ('https://example.com#@127.0.0.1/'), ('https://example.com/#fragment'), ('https://example.com:22/'),
    ('https://example.com:6379/'), ('https://example.com:0/'), ('https://example.com:65536/'), ('https://example.com:-1/'), ('https://example.com:80a/'),
    ('https://example.com:443:443/'), ('https://exa mple.com/'), ('https://example.com/a b'), (E'https://example.com/\nHost: x'), (E'https://example.com/\r\nX: y'),
    (E'https://example.com/\tx'), (E'https://example.com\u00ad/'), ('https://exämple.com/'), ('https://ⓔxample.com/'), ('https://127。0。0。1/'),
    ('https://①②⑦.⓪.⓪.①/'), ('https://example.com./'), ('https://127.0.0.1./'), ('https://example..com/'), ('https://.example.com/'), ('https://exa_$mple.com/'),
    ('https://localhost/'), ('https://LOCALHOST/'), ('https://localhost./'), ('https://a.localhost/'), ('https://printer.local/'), ('https://router.localdomain/'),
    ('https://metadata.google.internal/'), ('https://x.internal/'), ('https://nas.home.arpa/'), ('https://intranet/'), ('https://postgres/'),
    ('https://[::1]/'), ('https://[::]/'), ('https://[::ffff:127.0.0.1]/'), ('https://[::ffff:7f00:1]/'), ('https://[64:ff9b::7f00:1]/'), ('https://[2002:7f00:1::]/'),
    ('https://[fd00:ec2::254]/'), ('https://[fe80::1]/'), ('https://[fe80::1%25eth0]/'), ('https://[fe80::1%eth0]/'), ('https://[::1'), ('https://::1/'), ('https://[1.1.1.1]/'),
    ('https://[v1.fe80]/'), ('https://[]/'), ('https://[gggg::1]/'),
    ('https://example.com%00.evil.com/'), ('https://example.com%2f@127.0.0.1/'), ('https://127%2e0%2e0%2e1/'), ('https://%31%32%37.0.0.1/'), ('https://%6cocalhost/'),
    ('https://%00/'), ('https://example.com%0d%0aX:y/'), ('https://1.2.3.4.5/'), ('https://256.256.256.256/'), ('https://1.1.1.256/'),
    ('https://example.1/'), ('https://0x7f.example.0x1/'), ('https://09.09.09.09/'), ('https://999999999999/')
) as given (url)
union all
-- The same address in its other spellings.
select 'https://' || spelling || '/'
from (values
    ('127.0.0.1'), ('127.1'), ('127.0.1'), ('2130706433'), ('0x7f000001'), ('0x7F.0x0.0x0.0x1'), ('0177.0.0.1'), ('0177.0.0.01'), ('017700000001'), ('0x7f.1'), ('127.0x1'),
    ('10.1'), ('167772161'), ('0xa000001'), ('012.0.0.1'), ('169.254.169.254'), ('2852039166'), ('0xa9fea9fe'), ('0251.0376.0251.0376'), ('0xa9.0xfe.0xa9.0xfe'),
    ('169.16689662'), ('169.254.43518'), ('192.168.1'), ('3232235777'), ('0xc0a80101'), ('0300.0250.1.1'), ('172.16.1'), ('0'), ('0.0.0.0'), ('0x0'), ('00'), ('0.0'),
    ('100.64.1'), ('224.1'), ('255.255.255.255'), ('4294967295'), ('0xffffffff'), ('198.18.1'), ('192.0.2.1'), ('203.0.113.7'), ('198.51.100.7')
) as given (spelling)
union all
select 'https://example.com/' || repeat('a', 2048);

select count(*) > 130 as are_many from urls;
select (select count(*) from addresses) + (select count(*) from urls) >= 300 as are_300;
select url from urls where keelson._url_fault(url) is null order by 1;

-- URLs that can, and how they are used.
select url, keelson._url_normal(url) as normal
from (values
    ('https://example.com'), ('https://example.com/hooks?x=1&y=%20'), ('https://EXAMPLE.com:443/A'), ('HTTPS://example.com/'), ('https://example.com:8443/'),
    ('https://xn--exmple-cua.com/'), ('https://a-b.example.co.uk/'), ('https://1.1.1.1/'), ('https://[2606:4700:4700::1111]/'), ('https://[::ffff:8.8.8.8]/'),
    ('https://16843009/'), ('https://example.com/a/../b'), ('https://under_score.example.com/')
) as given (url);

-- Nothing of it may be set by a session.
set keelson.allow_private_targets = on;
set keelson.courier_ports = '22';

-- Breakers are set by hand for lanes that there are.
select keelson.courier_breaker_set('00000000-0000-0000-0000-000000000001', 'forced_open');
select keelson.courier_breaker_set('00000000-0000-0000-0000-000000000001', 'ajar');

-- The log's partitions.
select keelson.deliveries_partitions_make(8) as made_of_one_day_more;
select keelson.deliveries_partitions_make(8) as made_again;
select keelson.deliveries_partitions_make(-1);
select keelson.deliveries_expire('40 days') as dropped_of_none;

-- Not while a delivery waits that will be written there.
begin;
create temporary table past as select date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' - interval '40 days 12 hours' as moment;
select keelson.deliveries_partitions_make(0, moment) as made from past;
insert into keelson.deliveries (user_id, id, lane, kind, due_at)
select '00000000-0000-0000-0000-000000000000', keelson._uuid7_floor(moment), gen_random_uuid(), 'none', 'infinity' from past;
select keelson.deliveries_expire() as dropped_of_the_day_before;
delete from keelson.deliveries where kind = 'none';
select keelson.deliveries_expire() as dropped_of_its_day;
rollback;
