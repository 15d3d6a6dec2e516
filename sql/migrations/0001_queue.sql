-- The queue: a log of events, how far it has been worked off, what waits for a time, and what was attempted.
-- Forward-only. Applied by `postgres::migrate` in one transaction under an advisory lock.

-- Sources: databases whose WAL is read.
create table walhook.source (
    id                smallint generated always as identity (minvalue 1) primary key,
    name              text not null unique,
    slot              text not null,
    publication       text not null,
    system_identifier text not null,
    created_at        timestamptz not null default now()
);

-- How far capture came when it made no events. While it makes events, the log itself says how far it came, so this
-- row is not hot. Before a partition of the log is dropped its last position is written here.
create table walhook.progress (
    source_id  smallint primary key references walhook.source,
    lsn        pg_lsn not null,
    updated_at timestamptz not null default now()
);

-- Stretches of WAL that walhook could not read. A row without `accepted_at` keeps capture from starting.
create table walhook.gap (
    id          bigint generated always as identity primary key,
    source_id   smallint not null references walhook.source,
    detected_at timestamptz not null default now(),
    from_lsn    pg_lsn,
    to_lsn      pg_lsn,
    reason      text not null,
    accepted_at timestamptz
);

-- The catalogue as the API shows it. Rows of deleted triggers stay, so that the log can still name them.
create table walhook.trigger (
    id          uuid primary key,
    source_id   smallint not null references walhook.source,
    name        text not null,
    relation    oid not null,
    version     integer not null,
    definition  json not null,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    deleted_at  timestamptz
);
create unique index trigger_name on walhook.trigger (source_id, name) where deleted_at is null;

-- What capture is to watch, one row a definition; `watch` is null where the trigger was deleted. This table is in the
-- publication: capture learns of a version at the very place in the WAL where it was committed, so a change committed
-- before it does not count and every later one does. Rows are only ever inserted.
create table walhook.trigger_version (
    trigger_id uuid not null,
    version    integer not null,
    source_id  smallint not null references walhook.source,
    watch      json,
    made_at    timestamptz not null default now(),
    primary key (trigger_id, version)
);

-- The versions that capture has passed in the WAL, written in one transaction with the events before and after them.
create table walhook.activation (
    trigger_id uuid not null,
    version    integer not null,
    commit_lsn pg_lsn not null,
    primary key (trigger_id, version)
);

-- What walhook changed on a table, to be undone when its last trigger goes.
create table walhook.watched_table (
    source_id            smallint not null references walhook.source,
    relation             oid not null,
    previous_identity    "char",         -- null: walhook did not change it
    previous_index       text,           -- the index, where the identity was one (pg_class.relreplident = 'i')
    added_to_publication boolean not null,
    primary key (source_id, relation)
);

-- The log. Append-only: written by capture with COPY, never updated; `seq` is counted by the one writer of a source.
-- The rows are text because Postgres parses what it stores as json, which took a third of the append at 1,600 bytes a
-- row, and could refuse a row that is nested too deep.
-- Source 0 holds what is not a row change (invoked events); its rows are reached through `deferred` only.
create table walhook.event (
    seq             bigint not null,
    commit_lsn      pg_lsn not null,
    ordinal         bigint not null,
    committed_at    timestamptz not null,
    xid             xid not null,
    source_id       smallint not null,
    lane            smallint not null,
    id              uuid not null,
    trigger_id      uuid not null,
    operation       text not null,
    schema_name     text not null,
    table_name      text not null,
    old             text,                -- JSON, as it goes into the payload; view `events` shows it as such
    new             text,
    missing_columns text[],
    progress_lsn    pg_lsn               -- on the last row of each append: how far capture had come with it
) partition by range (committed_at);

-- A trigger reads its own events in order; capture finds its last event by probing each trigger's end.
create index event_trigger on walhook.event (trigger_id, source_id, seq);
-- An id holds the commit's milliseconds, so an event is found by id within a few pages of this index, which costs the
-- append next to nothing.
create index event_time on walhook.event using brin (committed_at) with (pages_per_range = 32);

create sequence walhook.manual_seq;

-- Append-only: one row for each HTTP request.
create table walhook.attempt (
    event_seq       bigint not null,
    started_at      timestamptz not null,
    duration_micros bigint not null,
    number          integer not null,
    source_id       smallint not null,
    status          smallint,
    event_id        uuid not null,
    trigger_id      uuid not null,
    verdict         text not null,       -- delivered, retry, dead
    response        text,
    error           text
) partition by range (started_at);

create index attempt_event on walhook.attempt (trigger_id, source_id, event_seq);

-- Events that wait for a time: retries, invoked and redelivered events. The only table here that is updated row by row.
create table walhook.deferred (
    event_id     uuid primary key,
    trigger_id   uuid not null,
    source_id    smallint not null,
    seq          bigint not null,
    committed_at timestamptz not null,
    lane         smallint not null,
    number       integer not null default 0,     -- attempts made in this round
    due_at       timestamptz not null default now(),
    reason       text not null check (reason in ('retry', 'manual', 'redelivery'))
) with (fillfactor = 70);

create index deferred_due on walhook.deferred (trigger_id, due_at);

-- Every event of the lane up to `seq` is done or deferred. A hint, written every few seconds: the attempt log is the
-- truth.
create table walhook.cursor (
    trigger_id uuid not null,
    source_id  smallint not null,
    lane       smallint not null,
    seq        bigint not null,
    primary key (trigger_id, source_id, lane)
) with (fillfactor = 50);

-- Who delivered a lane last. The owner is who holds the lane's advisory lock; this row tells an owner that comes back
-- after a lost connection whether anybody else had the lane meanwhile.
create table walhook.lane (
    lane     smallint primary key,
    node     uuid,
    taken_at timestamptz
);
insert into walhook.lane (lane) select generate_series(0, 15);
