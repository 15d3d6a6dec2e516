-- Purpose: be alone with the log for a moment. Asked for again and again without ever waiting in its queue, so that
--          nobody waits behind us: no append, no reader. A transaction that uses the log all the while wins.
-- Caller: queue::retention::replace. Locks: ACCESS EXCLUSIVE on the log, or an error after a second. Index: none.
do $$
begin
    for turn in 1..50 loop
        begin
            lock table only walhook.event in access exclusive mode nowait;
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
