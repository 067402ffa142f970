-- Pages for links in mails, where the product has none of its own. They load
-- nothing, and following a link changes nothing: mail scanners follow links.

create or replace function keelson._page_style()
returns text
language sql
immutable
as $$
select 'body{font:16px/1.5 system-ui,sans-serif;max-width:44em;margin:3em auto;padding:0 1em;color:#1b1f24}'
    || 'article{border:1px solid #d0d7de;border-radius:6px;padding:0 1em 1em;margin:1em 0}h2{font-size:1.1em}'
    || 'pre{white-space:pre-wrap;background:#f6f8fa;padding:1em;border-radius:4px}'
    || 'iframe{width:100%;height:22em;border:1px solid #d0d7de}'
    || 'input{font:inherit;padding:.5em;width:100%;max-width:24em;box-sizing:border-box;display:block;margin:.3em 0 1em}'
    || 'button{font:inherit;padding:.6em 1.2em;border:0;border-radius:4px;background:#1a4f8b;color:#fff;cursor:pointer}'
$$;
comment on function keelson._page_style() is
    'The style of our pages.';

create or replace function keelson._page_script()
returns text
language sql
immutable
as $$
select 'const form=document.querySelector("form"),say=document.querySelector("[role=status]");'
    || 'form.addEventListener("submit",async event=>{event.preventDefault();try{'
    || 'const reply=await fetch(form.dataset.endpoint,{method:"POST",headers:{"Content-Type":"application/json"},'
    || 'body:JSON.stringify(Object.fromEntries(new FormData(form)))});'
    || 'if(reply.ok){say.textContent=form.dataset.done;form.remove()}'
    || 'else{const fault=await reply.json();say.textContent=((fault.details||[])[0]||{}).message||fault.error}'
    || '}catch(error){say.textContent="The server could not be reached. Try again."}});'
$$;
comment on function keelson._page_script() is
    'What sends the form of a page of ours, as JSON, and shows what came of it.';

create or replace function keelson._page(title text, content text, policy text)
returns keelson.reply
language sql
immutable
as $$
select row(
    200,
    pg_catalog.jsonb_build_object(
        'Content-Type', 'text/html; charset=utf-8', 'Cache-Control', 'no-store', 'Content-Security-Policy', policy
    ),
    pg_catalog.convert_to(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        || '<title>' || keelson._html_escape(title) || '</title><style>' || keelson._page_style() || '</style><main>'
        || content || '</main></html>', 'UTF8'
    )
)::keelson.reply
$$;
comment on function keelson._page(text, text, text) is
    'A reply that is a page of ours, with this Content-Security-Policy.';

create or replace function keelson._action_page(
    title text,
    explanation text,
    endpoint text,
    token text,
    fields text,
    button text,
    done text
)
returns keelson.reply
language sql
stable
as $$
select keelson._page(
    title,
    '<h1>' || keelson._html_escape(title) || '</h1><p>' || keelson._html_escape(explanation) || '</p>'
    || '<p role="status"></p><form data-endpoint="' || endpoint || '" data-done="' || keelson._html_escape(done) || '">'
    || '<input type="hidden" name="token" value="' || keelson._html_escape(token) || '">' || fields
    || '<button>' || keelson._html_escape(button) || '</button></form>'
    || '<noscript><p>This page needs JavaScript.</p></noscript><script>' || keelson._page_script() || '</script>',
    'default-src ''none''; connect-src ''self''; style-src ''' || keelson._csp_hash(keelson._page_style())
    || '''; script-src ''' || keelson._csp_hash(keelson._page_script())
    || '''; form-action ''none''; frame-ancestors ''none''; base-uri ''none'''
)
$$;
comment on function keelson._action_page(text, text, text, text, text, text, text) is
    'A page with one button, which sends the token to the endpoint.';

create or replace function keelson._csp_hash(source text)
returns text
language sql
immutable
strict
parallel safe
as $$
select 'sha256-' || pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(source, 'UTF8')), 'base64')
$$;
comment on function keelson._csp_hash(text) is
    'The hash source by which a Content-Security-Policy (level 3) allows an inline style or script.';

create or replace function keelson._link(page text, endpoint text, token text)
returns text
language sql
stable
as $$
select case
    when keelson._app_url() = pg_catalog.rtrim(pg_catalog.current_setting('keelson.public_url'), '/')
    then pg_catalog.rtrim(pg_catalog.current_setting('keelson.public_url'), '/') || '/api/' || endpoint
    else keelson._app_url() || '/' || page
end || '?token=' || token
$$;
comment on function keelson._link(text, text, text) is
    'A link for a mail: to the product''s page below keelson.app_url, or to our own where the product has given no URL of its own.';
