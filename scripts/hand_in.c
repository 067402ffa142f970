/*
 * hand_in.c
 *	  Give the database a secret without it standing in a statement, an
 *	  argument list or a log.
 *
 *   hand_in secret NAME     keelson.secret_set(NAME, value), bound parameters
 *   hand_in password ROLE   alter role ROLE password, as a SCRAM verifier
 *
 * The value is standard input, without a newline at its end. The connection
 * is told by PGHOST, PGPORT, PGUSER, PGDATABASE as for any client of libpq.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libpq-fe.h>

/* Reads all of standard input, less one newline; false if it is too long. */
static bool
read_value(char *value, size_t size)
{
	size_t len = fread(value, 1, size, stdin);

	if (len == size || memchr(value, '\0', len) != NULL)
		return false;
	if (len > 0 && value[len - 1] == '\n')
		len--;
	value[len] = '\0';
	return true;
}

static bool
succeeded(PGconn *conn, PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);
	bool ok = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;

	if (!ok)
		fprintf(stderr, "hand_in: %s", PQerrorMessage(conn));
	PQclear(result);
	return ok;
}

static bool
hand_in_secret(PGconn *conn, const char *name, const char *value)
{
	const char *parameters[2] = {name, value};

	/* Whatever the server is told to log, it logs this without the value; a superuser may say so, nobody else. */
	PQclear(PQexec(conn, "set log_parameter_max_length = 0"));
	return succeeded(conn, PQexecParams(conn, "select keelson.secret_set($1, $2)", 2, NULL,
										parameters, NULL, NULL, 0));
}

/* The server receives the verifier only, so neither it nor its log ever has the password. */
static bool
hand_in_password(PGconn *conn, const char *role, const char *value)
{
	char *verifier = PQencryptPasswordConn(conn, value, role, "scram-sha-256");
	char *name = PQescapeIdentifier(conn, role, strlen(role));
	char *literal = verifier != NULL ? PQescapeLiteral(conn, verifier, strlen(verifier)) : NULL;
	char statement[1024];
	bool ok = false;

	if (name == NULL || literal == NULL)
		fprintf(stderr, "hand_in: %s", PQerrorMessage(conn));
	else if (snprintf(statement, sizeof(statement), "alter role %s password %s", name, literal) < (int) sizeof(statement))
		ok = succeeded(conn, PQexec(conn, statement));
	PQfreemem(literal);
	PQfreemem(name);
	PQfreemem(verifier);
	return ok;
}

int
main(int argc, char **argv)
{
	static char value[65536];
	PGconn *conn;
	bool ok = false;

	if (argc != 3 || (strcmp(argv[1], "secret") != 0 && strcmp(argv[1], "password") != 0))
	{
		fprintf(stderr, "usage: hand_in secret NAME | password ROLE, the value on standard input\n");
		return 2;
	}
	if (!read_value(value, sizeof(value)))
	{
		fprintf(stderr, "hand_in: the value is too long or holds a NUL\n");
		return 1;
	}
	conn = PQconnectdb("application_name=hand_in");
	if (PQstatus(conn) != CONNECTION_OK)
		fprintf(stderr, "hand_in: %s", PQerrorMessage(conn));
	else if (argv[1][0] == 's')
		ok = hand_in_secret(conn, argv[2], value);
	else
		ok = hand_in_password(conn, argv[2], value);
	PQfinish(conn);
	explicit_bzero(value, sizeof(value));
	return ok ? 0 : 1;
}
