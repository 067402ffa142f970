/*
 * fault.h
 *	  The faults of a request's arguments, collected.
 */
#ifndef KS_FAULT_H
#define KS_FAULT_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* The most faults that a reply lists, unless it is a list of its own that is at fault. */
#define KS_FAULTS_LISTED 100

typedef struct KsFaults
{
	int count;
	int listed;             /* at most */
	StringInfoData details; /* the array's elements so far */
	StringInfoData path;    /* the place looked at: events[0].occurredAt */
} KsFaults;

extern void ks_faults_begin(KsFaults *faults);

/* Note that the value at the path is at fault. `code` is for programs, the message for a person. */
extern void ks_fault(KsFaults *faults, const char *code, const char *fmt, ...) pg_attribute_printf(3, 4);

/* Enter a member or an element; returns the length to leave by. */
extern int ks_faults_enter_member(KsFaults *faults, const char *name);
extern int ks_faults_enter_element(KsFaults *faults, int index);
extern void ks_faults_leave(KsFaults *faults, int length);

#endif /* KS_FAULT_H */
