-- Where each trigger's log is worked off to, in all lanes; 0 where a lane has no cursor yet. For walhook's own
-- statements, which look at what comes after it.
create view walhook.lowest_cursor as
select t.id as trigger_id, case when count(c.seq) = 16 then min(c.seq) else 0 end as seq
from walhook.trigger t
left join walhook.cursor c on c.trigger_id = t.id and c.source_id = t.source_id
where t.deleted_at is null
group by t.id;
