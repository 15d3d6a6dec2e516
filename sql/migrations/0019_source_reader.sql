-- The node that read a source's slot last. Whoever takes the source over ends its stream, which the server would keep
-- until wal_sender_timeout where that node is paused or cut off.
create table walhook.source_reader (
    source_id smallint primary key references walhook.source,
    node_id   uuid not null
);
