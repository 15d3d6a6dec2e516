-- A gap that was accepted starts anew at the new slot's position, which can lie before the old one: on another server
-- positions begin where they please. So what the log says of progress counts only from there on.
alter table walhook.progress
    add column after_seq bigint not null default 0;   -- events up to this one carry no progress any more
