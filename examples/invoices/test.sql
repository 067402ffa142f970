-- The product's own tests: one transaction, which is undone. What an endpoint does, its function does here.
begin;
select keelson.user_create('ada@invoices.example.com');
select keelson.user_create('eve@invoices.example.com') as eve \gset
-- Whoever administers writes for anybody.
insert into invoices.invoices (user_id, number, customer, amount, currency, due_on) values (:'eve', 1, 'Looms', 10, 'EUR', '2030-01-31');

-- From here to the end we are Ada.
select keelson.act_as('ada@invoices.example.com');

do $$
declare
    first invoices_api.invoice := invoices_api.invoice_create('Analytical Engines', 120.50);
    second invoices_api.invoice := invoices_api.invoice_create('Difference Engines', 80, 'GBP', '2030-01-31');
    paid invoices_api.invoice := invoices_api.invoice_pay(first.id);
    code text;
begin
    assert (first.number, second.number) = (1, 2), 'numbers count from 1, for each user';
    assert first.due_on = current_date + 14, 'an invoice is due in 14 days';
    assert paid.paid_at = now(), 'it is paid now';
    assert array(select number from invoices_api.invoices_list()) = '{2, 1}', 'one''s own, the latest first';
    assert array(select number from invoices_api.invoices_list('open')) = '{2}', 'paid ones can be left out';

    -- What must not be. An error's code, as clients see it, is its CONSTRAINT NAME.
    begin
        perform invoices_api.invoice_pay(first.id);
        assert false, 'nothing is paid twice';
    exception when sqlstate 'KS404' then
        get stacked diagnostics code = constraint_name;
        assert code = 'NOT_FOUND', code;
    end;
    begin
        perform invoices_api.invoice_create('', 1);
        assert false, 'a customer has a name';
    exception when check_violation then
    end;
    perform invoices_api.invoice_create('Looms', 10);
    begin
        perform invoices_api.invoice_create('Looms', 10);
        assert false, 'the quota holds';
    exception when sqlstate 'KS429' then
        assert (select max(number) from invoices_api.invoices_list()) = 3, 'what is refused takes no number';
    end;

    -- Nobody gets at the invoices of others, whatever the query.
    assert (select count(*) from invoices.invoices) = 3, 'only one''s own are seen';
    update invoices.invoices set paid_at = now() where user_id <> keelson.current_user_id();
    assert not found, 'only one''s own are written';
end
$$;
rollback;
