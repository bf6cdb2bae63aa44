-- the error of a statement in parts; its SQLSTATE, message, DETAIL and HINT
CREATE FUNCTION said(sql text, OUT state text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE sql;
	state := 'none';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;
CREATE FUNCTION refused(sql text, state text, message text, detail text, hint text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT is((s.state, s.message)::text, ($2, $3)::text, 'refused: ' || $1) FROM said($1) s
	UNION ALL SELECT is((s.detail, s.hint)::text, ($4, $5)::text, 'why, and what to do: ' || $1) FROM said($1) s
$$;
