-- A request, as the gateway makes it, or the refusal that is raised in its place.
create function pg_temp.request(
    endpoint text,
    body jsonb default null,
    credential text default null,
    arguments jsonb default null,
    caller jsonb default '{}',
    out status integer,
    out headers jsonb,
    out data jsonb,
    out page text
) language plpgsql as $$
declare
    reply keelson.reply;
    code text; field text; message text;
begin
    reply := keelson.dispatch(
        (select r.id from keelson.routes as r where r.method || ' ' || r.template = endpoint),
        credential,
        arguments::json,
        convert_to(body::text, 'UTF8'),
        ('{"ip": "192.0.2.7", "userAgent": "regress", "contentType": "application/json"}'
            || case when credential is null then '{}' else '{"via": "bearer"}'::jsonb end || caller)::json
    );
    status := reply.status;
    headers := reply.headers;
    if headers ->> 'Content-Type' like 'text/html%' then
        page := convert_from(reply.body, 'UTF8');
    else
        data := convert_from(reply.body, 'UTF8')::jsonb;
    end if;
exception when others then
    if sqlstate !~ '^KS' then
        raise;
    end if;
    get stacked diagnostics code = constraint_name, field = column_name, message = message_text;
    status := right(sqlstate, 3)::integer;
    data := jsonb_strip_nulls(jsonb_build_object('code', code, 'field', nullif(field, ''), 'message', message));
end
$$;
