-- migration 1: eras
create table keelson.eras (
    number integer not null,
    system_identifier bigint not null,
    began_at timestamptz not null default pg_catalog.now(),
    constraint eras_pkey primary key (number),
    constraint eras_system_identifier_key unique (system_identifier),
    constraint eras_number_check check (number > 0)
);
comment on table keelson.eras is
    'The clusters that this database has lived in. Transaction ids in tables stand beside an era: those of an older one are of transactions long settled.';
comment on column keelson.eras.system_identifier is
    'As pg_control_system() shows it.';
