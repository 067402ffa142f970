/*
 * compat.h
 *	  Differences between the server's major versions, 15 to 18.
 *
 * The only file of the extension that may look at PG_VERSION_NUM.
 */
#ifndef KS_COMPAT_H
#define KS_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "Keelson needs PostgreSQL 15 or later"
#endif

#include "storage/latch.h"

/* 16 moved the macros of variable-length values out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 18 asks whether a deferrable primary key will do. */
#if PG_VERSION_NUM >= 180000
#define ks_primary_key_index(relation) RelationGetPrimaryKeyIndex((relation), false)
#else
#define ks_primary_key_index(relation) RelationGetPrimaryKeyIndex(relation)
#endif

/* 18 writes it before the declaration and has dropped the older macro. */
#if PG_VERSION_NUM >= 180000
#define KS_NORETURN pg_noreturn
#else
#define KS_NORETURN __attribute__((noreturn))
#endif

/* From 17 on a wait event set belongs to a resource owner, in 18 with a header of its own. */
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif
#if PG_VERSION_NUM >= 170000
#define ks_create_wait_event_set(nevents) CreateWaitEventSet(NULL, (nevents))
#else
#define ks_create_wait_event_set(nevents) CreateWaitEventSet(TopMemoryContext, (nevents))
#endif

/* 17 knows a process by its type alone. */
#if PG_VERSION_NUM >= 170000
#define ks_is_background_worker() AmBackgroundWorkerProcess()
#else
#define ks_is_background_worker() (IsBackgroundWorker)
#endif

/* 18 lets a module tell its name and version. */
#if PG_VERSION_NUM >= 180000
#define KS_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "keelson", .version = "1.0")
#else
#define KS_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* The JSON parser's callbacks return a code from 16 on; its lexer can be given in 17. */
#include "common/jsonapi.h"
#if PG_VERSION_NUM >= 160000
#define KsJsonActionResult JsonParseErrorType
#define KS_JSON_ACTION_DONE return JSON_SUCCESS
#else
#define KsJsonActionResult void
#define KS_JSON_ACTION_DONE return
#endif
#if PG_VERSION_NUM >= 170000
#define ks_json_lexer(text, len) makeJsonLexContextCstringLen(NULL, (text), (len), PG_UTF8, true)
#else
#define ks_json_lexer(text, len) makeJsonLexContextCstringLen(unconstify(char *, (text)), (len), PG_UTF8, true)
#endif

/* Take a qualified name apart. */
#if PG_VERSION_NUM >= 160000
#define ks_name_list(name) stringToQualifiedNameList((name), NULL)
#else
#define ks_name_list(name) stringToQualifiedNameList(name)
#endif

/* Where a relation's files are: named anew in 16. */
#if PG_VERSION_NUM >= 160000
#define ks_relation_files(relation) ((relation)->rd_locator)
#else
#define ks_relation_files(relation) ((relation)->rd_node)
#endif

/* Begin a scan of a plain index; 18 asks for a place for statistics. */
#if PG_VERSION_NUM >= 180000
#define ks_index_beginscan(heap, index, snapshot, keys) index_beginscan((heap), (index), (snapshot), NULL, (keys), 0)
#else
#define ks_index_beginscan(heap, index, snapshot, keys) index_beginscan((heap), (index), (snapshot), (keys), 0)
#endif

/* Enter a row into its indexes; 16 asks whether those that summarize suffice. */
#if PG_VERSION_NUM >= 160000
#define ks_insert_index_tuples(target, slot, estate) ExecInsertIndexTuples((target), (slot), (estate), false, false, NULL, NIL, false)
#else
#define ks_insert_index_tuples(target, slot, estate) ExecInsertIndexTuples((target), (slot), (estate), false, false, NULL, NIL)
#endif

/* 17 has an index's access method let go of what it kept for further inserts. */
#if PG_VERSION_NUM >= 170000
#define ks_index_insert_cleanup(index, info) index_insert_cleanup((index), (info))
#else
#define ks_index_insert_cleanup(index, info) ((void) 0)
#endif

#endif /* KS_COMPAT_H */
