-- Purpose: make the schema and the list of applied migrations, the first time.
-- Caller: postgres::migrate. Locks: none where they exist. Index: none.
do $$
begin
    if to_regnamespace('walhook') is null then
        create schema walhook;
    end if;
    if to_regclass('walhook.migration') is null then
        create table walhook.migration (
            version    integer primary key,
            name       text not null,
            checksum   text not null,
            applied_at timestamptz not null default now()
        );
    end if;
end
$$
