/*
 * One request, asked up to ASKS times: an independent, coarser model of "never twice", for the model checker Spin.
 *
 * It shares no code with the service or with the model in Python: the rules are written down again from
 * docs/reliability.md. Each ask is a process of the service that may stand still or die before any step; the network
 * may deliver its call late or never, the reply may be lost, the database may be away, the worker too, and a person
 * settles what is unknown. Time is counted in ticks.
 *
 *   spin -DKEYED=0 -a payment.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 *
 * Each bug below is one that a rule forbids, and Spin must find it:
 *   SENDING_DOES_NOT_BLOCK  an equal request is matched inside the window, or against an unknown one
 *   RETRIES                 a call whose reply was lost is made again
 *   DEAD_MEANS_FAILED       the sweep calls failed what a dead process left behind
 *   SETTLES_AT_ONCE         a person may call failed what may still take effect
 *   SENDS_LATE              a process that stood still makes its call all the same
 *   LOST_MEANS_NOT_SENT     a reply that never came is told as "nothing was sent"
 */
#ifndef ASKS
#define ASKS 2
#endif
#ifndef KEYED
#define KEYED 0
#endif
#define DEADLINE 1             /* a call of a process that runs ends within this time */
#define LEASE 3
#define SWEEP 1
#ifndef WINDOW
#define WINDOW (LEASE + SWEEP)
#endif
#define EFFECT 3               /* a call that left takes effect within this time, or never */
#define LATE (LEASE + EFFECT)  /* so nobody may call a payment failed before: LATE_EFFECT_S */
#define OLD 7                  /* ages are not counted any further */

mtype = { nothing, sending, pending, unknown, notsent, settled }
mtype = { accepted, lost, unsent }

mtype state[ASKS] = nothing;
byte age[ASKS];
byte effects[ASKS];
bool on_the_way[ASKS];         /* the call left and has not arrived */
byte way_age[ASKS];
bool told_nothing_sent[ASKS];
bool calling[ASKS];            /* a process that runs is in its call: time does not pass its deadline */
byte call_age[ASKS];
bool rival[ASKS * ASKS];       /* rival[later * ASKS + earlier]: of these two, one effect at the most */
byte rows = 0;
bool database = true;

#define in_flight(r) (state[r] == sending || state[r] == unknown)
#define ended(r) (state[r] == pending)

inline take_effect(r) {
    atomic {
        effects[r]++;
        assert(effects[r] == 1);                       /* one call, one effect */
        assert(state[r] != notsent && state[r] != settled);  /* nothing that is called failed is done */
        assert(!told_nothing_sent[r]);                 /* nobody was told that it was not */
        assert(r < 1 || !(rival[r * ASKS] && effects[0]));
        assert(r < 2 || ASKS < 3 || !(rival[r * ASKS + 1] && effects[1]));
        assert(r != 0 || rows < 2 || !(rival[ASKS] && effects[1]));
        assert(ASKS < 3 || r > 1 || rows < 3 || !(rival[2 * ASKS + r] && effects[ASKS - 1]))
    }
}

proctype Ask() {
    byte r, e;
    bool go_on = true;
    mtype outcome;

    /* Write 1: under the lock of the request, look for an equal one and insert. */
    atomic {
        if
        :: !database -> goto done                      /* 503: nothing was written, nothing is sent */
        :: database
        fi;
        e = 0;
        do
        :: e < rows ->
            if
            :: state[e] == notsent -> skip             /* it never left: it may be asked for again */
            :: state[e] == settled && (KEYED || age[e] < WINDOW) -> go_on = false
#ifdef SENDING_DOES_NOT_BLOCK
            :: state[e] == sending && age[e] < WINDOW -> go_on = false
            :: state[e] == unknown -> go_on = false
#else
            :: in_flight(e) -> go_on = false
#endif
            :: ended(e) && (KEYED || age[e] < WINDOW) -> go_on = false
            :: else -> skip
            fi;
            e++
        :: else -> break
        od;
        if
        :: !go_on -> goto done                         /* 409, or the answer of the earlier one */
        :: go_on
        fi;
        r = rows;
        e = 0;
        do
        :: e < r ->
            /* Two effects are right only when the first was known to be done, and the window was over. */
            rival[r * ASKS + e] = !(ended(e) && age[e] >= WINDOW && !KEYED);
            e++
        :: else -> break
        od;
        rows++;
        state[r] = sending
    }

    /* The commit may go unheard: then the row is taken back, for nothing was sent. */
    if
    :: true -> skip
    :: true ->
        told_nothing_sent[r] = true;
        outcome = unsent;
        goto write
    fi;

    /* The process may stand still here for any time, or die. */
    if
    :: true -> skip
    :: true -> goto done
    fi;
    atomic {
        if
#ifndef SENDS_LATE
        :: age[r] > LEASE - DEADLINE -> outcome = unsent; goto write
        :: age[r] <= LEASE - DEADLINE ->
#else
        :: true ->
#endif
            calling[r] = true;
            call_age[r] = 0
        fi
    }

    /* The call. */
    if
    :: atomic { outcome = unsent; calling[r] = false; goto write }    /* refused before a byte left */
    :: on_the_way[r] = true
    fi;
    if
    :: atomic { effects[r] == 1 -> outcome = accepted; calling[r] = false }
    :: atomic { outcome = lost; calling[r] = false }                  /* any loss, any deadline */
    :: atomic { calling[r] = false; goto done }                       /* the process dies */
    fi;
#ifdef RETRIES
    if
    :: atomic { outcome == lost && effects[r] == 1 -> take_effect(r); outcome = accepted }
    :: else
    fi;
#endif

write:
    /* Write 2: as soon as the database is there; the process may die first. */
    if
    :: goto done
    :: atomic {
        database ->
        if
        :: state[r] == sending || state[r] == unknown ->
            if
            :: outcome == accepted -> state[r] = pending
            :: outcome == unsent -> state[r] = notsent; assert(effects[r] == 0 && !on_the_way[r])
#ifdef LOST_MEANS_NOT_SENT
            :: outcome == lost -> state[r] = notsent; told_nothing_sent[r] = true; assert(effects[r] == 0)
#else
            :: outcome == lost -> state[r] = unknown
#endif
            fi
        :: else -> skip                                /* a person was faster, and the record keeps it */
        fi
       }
    fi;
done:
    skip
}

/* What is on the way arrives, or is lost; not later than LATE. */
active proctype Network() {
    byte n;
    do
    :: atomic { on_the_way[0] -> on_the_way[0] = false; if :: way_age[0] < EFFECT -> take_effect(0) :: skip fi }
    :: atomic { on_the_way[1] -> on_the_way[1] = false; if :: way_age[1] < EFFECT -> take_effect(1) :: skip fi }
#if ASKS > 2
    :: atomic { on_the_way[2] -> on_the_way[2] = false; if :: way_age[2] < EFFECT -> take_effect(2) :: skip fi }
#endif
    od
}

#define sweep(r) database && state[r] == sending && age[r] > LEASE
#ifdef DEAD_MEANS_FAILED
#define given_up notsent
#else
#define given_up unknown
#endif

/* A worker that may be away for any time: it does nothing until it does. */
active proctype Worker() {
    do
    :: atomic { sweep(0) -> state[0] = given_up; assert(given_up == unknown || effects[0] == 0) }
    :: atomic { sweep(1) -> state[1] = given_up; assert(given_up == unknown || effects[1] == 0) }
#if ASKS > 2
    :: atomic { sweep(2) -> state[2] = given_up; assert(given_up == unknown || effects[2] == 0) }
#endif
    od
}

#ifdef SETTLES_AT_ONCE
#define may_be_failed(r) effects[r] == 0
#else
#define may_be_failed(r) effects[r] == 0 && age[r] >= LATE
#endif

/* A person looks into the cabinet. */
active proctype Person() {
    do
    :: atomic { database && state[0] == unknown && may_be_failed(0) -> state[0] = settled }
    :: atomic { database && state[0] == unknown && effects[0] -> state[0] = pending }
    :: atomic { database && state[1] == unknown && may_be_failed(1) -> state[1] = settled }
    :: atomic { database && state[1] == unknown && effects[1] -> state[1] = pending }
    od
}

active proctype Database() {
    do
    :: database = !database
    od
}

#define waits(r) (calling[r] && call_age[r] >= DEADLINE)

active proctype Time() {
    byte r;
    do
    :: atomic {
        !waits(0) && !waits(1) && !waits(ASKS - 1) ->
        r = 0;
        do
        :: r < rows ->
            if :: age[r] < OLD -> age[r]++ :: else fi;
            if :: calling[r] -> call_age[r]++ :: else fi;
            if :: on_the_way[r] && way_age[r] < EFFECT -> way_age[r]++ :: else fi;
            r++
        :: else -> break
        od;
        r = 0
       }
    od
}

init {
    byte n = 0;
    do
    :: n < ASKS -> run Ask(); n++
    :: else -> break
    od
}
