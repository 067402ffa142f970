/*
 * locked.c
 *	  Pages for keys, mapped apart from all other memory: an area inside the
 *	  server's shared memory could lie in a huge page, which cannot be kept out
 *	  of a core dump in part.
 */
#include "postgres.h"

#include <sys/mman.h>
#include <unistd.h>

#include "secrets/locked.h"

void *
ks_locked_create(Size size, bool shared, bool *is_locked)
{
	Size page = (Size) sysconf(_SC_PAGESIZE);
	Size length = TYPEALIGN(page, size);
	void *area = mmap(NULL, length, PROT_READ | PROT_WRITE, (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		return NULL;
#ifdef MADV_DONTDUMP
	if (madvise(area, length, MADV_DONTDUMP) != 0)
	{
		munmap(area, length);
		return NULL;
	}
#endif
	if (is_locked != NULL)
		*is_locked = mlock(area, length) == 0;
	else
		(void) mlock(area, length);
	return area;
}
