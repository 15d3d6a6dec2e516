-- Purpose: be alone with the attempts for a moment. Asked for again and again without ever waiting in its queue, so
--          that nobody waits behind us: no recording, no reader. A transaction that uses them all the while wins.
-- Caller: queue::retention::replace. Locks: ACCESS EXCLUSIVE on the attempts, or an error after a second. Index: none.
do $$
begin
    for turn in 1..50 loop
        begin
            lock table only walhook.attempt in access exclusive mode nowait;
            return;
        exception when lock_not_available then
            if turn = 50 then
                raise;
            end if;
        end;
        perform pg_sleep(0.02);
    end loop;
end
$$
