/*
 * main.c
 *	  keelson-audit-verify: is an event in the audit trail, and is the trail of
 *	  today the one of then? Reads what keelson.audit_proof() and GET
 *	  audit/checkpoint answer, and a checkpoint that was kept; knows no database.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "signature.h"

#define MAX_FILE (1024 * 1024)

static const char usage[] =
	"usage: keelson-audit-verify proof FILE [KEPT]       is the event in the trail that was signed?\n"
	"       keelson-audit-verify checkpoint FILE [KEPT]  is the trail signed, and does it go on from the one kept?\n"
	"       keelson-audit-verify inclusion FILE          the bare proof: leafIdx, treeSize, leafHash, root, proof\n"
	"       keelson-audit-verify consistency FILE        the bare proof: size1, size2, root1, root2, proof\n"
	"FILE is the JSON of keelson.audit_proof(id), or of GET audit/checkpoint?from=SIZE (with its envelope or\n"
	"without); KEPT is a checkpoint's JSON that you have kept. FILE - is the standard input.\n";

static Slice read_file(const char *path);
static const char *check_proof(Slice proof, Slice kept);
static const char *check_checkpoint(Slice now, Slice kept);
static const char *check_inclusion(Slice vector);
static const char *check_consistency(Slice vector);
static bool read_hash(Slice value, Hash *hash);
static bool read_hashes(Slice value, Hash *hashes, size_t *count);
static bool same_key(Slice a, Slice b);

int
main(int argc, char **argv)
{
	Slice file, kept = {NULL, 0};
	const char *fault;

	if (argc < 3 || argc > 4)
	{
		fputs(usage, stderr);
		return 2;
	}
	file = read_file(argv[2]);
	if (argc == 4)
		kept = read_file(argv[3]);
	if (strcmp(argv[1], "proof") == 0)
		fault = check_proof(file, kept);
	else if (strcmp(argv[1], "checkpoint") == 0)
		fault = check_checkpoint(file, kept);
	else if (strcmp(argv[1], "inclusion") == 0 && argc == 3)
		fault = check_inclusion(file);
	else if (strcmp(argv[1], "consistency") == 0 && argc == 3)
		fault = check_consistency(file);
	else
	{
		fputs(usage, stderr);
		return 2;
	}
	if (fault != NULL)
	{
		printf("no: %s\n", fault);
		return 1;
	}
	return 0;
}

/* The file's JSON, out of the envelope of an HTTP reply if it has one; lives until the end. */
static Slice
read_file(const char *path)
{
	FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
	char *content = malloc(MAX_FILE);
	Slice whole, data;

	if (file == NULL || content == NULL)
	{
		perror(path);
		exit(2);
	}
	whole.start = content;
	whole.len = fread(content, 1, MAX_FILE, file);
	if (file != stdin)
		fclose(file);
	data = json_member(whole, "data");
	return data.start != NULL && *data.start == '{' ? data : whole;
}

static const char *
check_proof(Slice proof, Slice kept)
{
	Checkpoint checkpoint;
	Slice leaf = json_string(json_member(proof, "leaf"));
	Slice key = json_member(kept.start != NULL ? kept : proof, "key");
	uint8_t *bytes;
	uint64_t index, size;
	Hash hash, hashes[MAX_PROOF];
	size_t count;
	long len;
	const char *fault = checkpoint_open(json_string(json_member(proof, "checkpoint")), key, &checkpoint);

	if (fault != NULL)
		return fault;
	if (leaf.start == NULL || !json_number(json_member(proof, "leafIndex"), &index) ||
		!json_number(json_member(proof, "treeSize"), &size) || !read_hashes(json_member(proof, "proof"), hashes, &count))
		return "the file is no proof";
	bytes = malloc(leaf.len + 4);
	len = bytes != NULL ? base64_decode(leaf, bytes) : -1;
	if (len < 0)
		return "the leaf is not in base64";
	hash = leaf_hash(bytes, len);
	if (size != checkpoint.size || !inclusion_holds(index, size, &hash, hashes, count, &checkpoint.root))
		return "the event is not in the trail that was signed";
	printf("yes: this is event %" PRIu64 " of %" PRIu64 "\n", index, size);
	fwrite(bytes, 1, len, stdout);
	putchar('\n');
	free(bytes);
	return NULL;
}

static const char *
check_checkpoint(Slice now, Slice kept)
{
	Checkpoint checkpoint, before;
	Slice key = json_member(now, "key");
	uint64_t from;
	Hash hashes[MAX_PROOF];
	size_t count;
	const char *fault = checkpoint_open(json_string(json_member(now, "checkpoint")), key, &checkpoint);

	if (fault != NULL)
		return fault;
	if (kept.start == NULL)
	{
		printf("yes: %" PRIu64 " events are signed\n", checkpoint.size);
		return NULL;
	}
	fault = checkpoint_open(json_string(json_member(kept, "checkpoint")), json_member(kept, "key"), &before);
	if (fault != NULL)
		return fault;
	if (before.size > checkpoint.size)
		return "the trail is shorter than the one that was kept: it was cut off";
	if (!json_number(json_member(now, "from"), &from) || from != before.size)
		return "ask for the checkpoint from the size that was kept: audit/checkpoint?from=SIZE";
	if (!read_hashes(json_member(now, "consistency"), hashes, &count) ||
		!consistency_holds(before.size, checkpoint.size, &before.root, &checkpoint.root, hashes, count))
		return "the trail does not go on from the one that was kept: it was written anew";
	printf("yes: the %" PRIu64 " events signed then are the beginning of the %" PRIu64 " signed now%s\n", before.size, checkpoint.size,
		   same_key(key, json_member(kept, "key")) ? "" : ", by another key");
	return NULL;
}

static const char *
check_inclusion(Slice vector)
{
	uint64_t index, size;
	Hash leaf, root, hashes[MAX_PROOF];
	size_t count;

	if (!json_number(json_member(vector, "leafIdx"), &index) || !json_number(json_member(vector, "treeSize"), &size) ||
		!read_hash(json_member(vector, "leafHash"), &leaf) || !read_hash(json_member(vector, "root"), &root) ||
		!read_hashes(json_member(vector, "proof"), hashes, &count))
		return "the file is no proof";
	return inclusion_holds(index, size, &leaf, hashes, count, &root) ? NULL : "the proof does not hold";
}

static const char *
check_consistency(Slice vector)
{
	uint64_t size1, size2;
	Hash root1, root2, hashes[MAX_PROOF];
	size_t count;

	if (!json_number(json_member(vector, "size1"), &size1) || !json_number(json_member(vector, "size2"), &size2) ||
		!read_hash(json_member(vector, "root1"), &root1) || !read_hash(json_member(vector, "root2"), &root2) ||
		!read_hashes(json_member(vector, "proof"), hashes, &count))
		return "the file is no proof";
	return consistency_holds(size1, size2, &root1, &root2, hashes, count) ? NULL : "the proof does not hold";
}

static bool
read_hash(Slice value, Hash *hash)
{
	Slice text = json_string(value);
	uint8_t bytes[HASH_LENGTH + 4];

	if (text.start == NULL || text.len > 44 || base64_decode(text, bytes) != HASH_LENGTH)
		return false;
	memcpy(hash->bytes, bytes, HASH_LENGTH);
	return true;
}

/* An array of hashes; null is an empty one. */
static bool
read_hashes(Slice value, Hash *hashes, size_t *count)
{
	size_t at = 0;
	Slice element;

	*count = 0;
	if (value.start == NULL)
		return false;
	while ((element = json_element(value, &at)).start != NULL)
		if (*count == MAX_PROOF || !read_hash(element, &hashes[(*count)++]))
			return false;
	return true;
}

static bool
same_key(Slice a, Slice b)
{
	Slice x = json_member(a, "x");
	Slice y = json_member(b, "x");

	return x.start != NULL && y.start != NULL && x.len == y.len && memcmp(x.start, y.start, x.len) == 0;
}
