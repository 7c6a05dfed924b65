//! Is the recorded history of an image linearizable?
//!
//! An image is absent, then live, then deleted, and never goes back. So of all its operations only two
//! change anything: its creation and its one effective deletion; every other operation sees a state. A
//! history is linearizable if there is a moment for each of the two, inside the time that its
//! operation took, such that every other operation has a moment inside its own time at which it would
//! have seen what it saw. Those moments bound the two by simple inequalities, which is all that is
//! solved here. An operation of unknown outcome may take effect at any time after its beginning, or
//! never.

/// Microseconds since the run began, on the one clock of this process.
pub(crate) type Moment = u64;

/// What an operation did to an image, or saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The upload or reference that made it.
    Created,
    /// A deletion that says that it was the one; without an answer, one that may be.
    Deleted,
    /// It was there, with the right bytes.
    SeenLive,
    /// It was deleted before.
    SeenDeleted,
    /// There is no such image.
    SeenAbsent,
}

/// One operation on one image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) what: What,
    pub(crate) invoked: Moment,
    /// `None`: nobody knows whether and when it took effect.
    pub(crate) returned: Option<Moment>,
}

/// What an image must be now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Live,
    Deleted,
    /// A deletion of unknown outcome decides, and nobody has looked since.
    Either,
}

/// Why no order of its operations explains a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anomaly {
    /// Something was done to it or seen of it, and nobody made it.
    NeverCreated,
    /// Made more than once.
    CreatedTwice,
    /// Not there at a time when it had to be.
    Lost,
    /// Deletion took effect more than once: the count fell twice.
    DeletedTwice,
    /// Seen deleted, and nobody deleted it.
    DeletedByNobody,
    /// Seen live after its deletion was answered, or after it was seen deleted.
    Undead,
}

impl Anomaly {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::NeverCreated => "it was seen, but nobody made it",
            Self::CreatedTwice => "it was made twice",
            Self::Lost => "it was absent after its creation was answered",
            Self::DeletedTwice => "two deletions say that they took effect",
            Self::DeletedByNobody => "it was seen deleted, and no deletion explains that",
            Self::Undead => "it was seen live after it was deleted",
        }
    }
}

/// A time span in which something must have happened.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Moment,
    to: Moment,
}

impl Span {
    fn is_possible(self) -> bool {
        self.from <= self.to
    }
}

/// Explains a history, or says why there is no explanation.
pub(crate) fn explain(events: &[Event]) -> Result<Fate, Anomaly> {
    let of = |what: What| events.iter().filter(move |event| event.what == what);
    let mut creations = of(What::Created);
    let creation = creations.next().ok_or(Anomaly::NeverCreated)?;
    if creations.next().is_some() {
        return Err(Anomaly::CreatedTwice);
    }
    let creation = span_of_creation(creation, events);
    if !creation.is_possible() {
        return Err(Anomaly::Lost);
    }
    let known: Vec<&Event> = of(What::Deleted)
        .filter(|event| event.returned.is_some())
        .collect();
    if known.len() > 1 {
        return Err(Anomaly::DeletedTwice);
    }
    if let Some(deletion) = known.first() {
        return match span_of_deletion(deletion, creation, events).is_possible() {
            true => Ok(Fate::Deleted),
            false => Err(Anomaly::Undead),
        };
    }
    let seen_deleted = of(What::SeenDeleted).next().is_some();
    let mut unknown = of(What::Deleted).peekable();
    let any_unknown = unknown.peek().is_some();
    let may_be_deleted =
        unknown.any(|deletion| span_of_deletion(deletion, creation, events).is_possible());
    match (seen_deleted, may_be_deleted) {
        (true, true) => Ok(Fate::Deleted),
        (true, false) if any_unknown => Err(Anomaly::Undead),
        (true, false) => Err(Anomaly::DeletedByNobody),
        (false, true) => Ok(Fate::Either),
        (false, false) => Ok(Fate::Live),
    }
}

/// Whoever saw it absent can have looked before; whoever saw it live or deleted must be able to have
/// looked after.
fn span_of_creation(creation: &Event, events: &[Event]) -> Span {
    let mut span = Span {
        from: creation.invoked,
        to: creation.returned.unwrap_or(Moment::MAX),
    };
    for event in events {
        let ended = event.returned.unwrap_or(Moment::MAX);
        match event.what {
            What::SeenAbsent => span.from = span.from.max(event.invoked),
            What::SeenLive | What::SeenDeleted | What::Deleted => span.to = span.to.min(ended),
            What::Created => {}
        }
    }
    span
}

/// Whoever saw it live can have looked before; whoever saw it deleted must be able to have looked
/// after.
fn span_of_deletion(deletion: &Event, creation: Span, events: &[Event]) -> Span {
    let mut span = Span {
        from: deletion.invoked.max(creation.from),
        to: deletion.returned.unwrap_or(Moment::MAX),
    };
    for event in events {
        match event.what {
            What::SeenLive => span.from = span.from.max(event.invoked),
            What::SeenDeleted => span.to = span.to.min(event.returned.unwrap_or(Moment::MAX)),
            What::Created | What::Deleted | What::SeenAbsent => {}
        }
    }
    span
}

#[cfg(test)]
mod tests {
    use super::What::{Created, Deleted, SeenAbsent, SeenDeleted, SeenLive};
    use super::*;

    fn known(what: What, invoked: Moment, returned: Moment) -> Event {
        Event {
            what,
            invoked,
            returned: Some(returned),
        }
    }

    fn unknown(what: What, invoked: Moment) -> Event {
        Event {
            what,
            invoked,
            returned: None,
        }
    }

    #[test]
    fn a_life_without_anything_special() {
        let mut events = vec![known(Created, 0, 10), known(SeenLive, 11, 12)];
        assert_eq!(explain(&events), Ok(Fate::Live));
        events.extend([known(Deleted, 20, 30), known(SeenDeleted, 31, 32)]);
        assert_eq!(explain(&events), Ok(Fate::Deleted));
        events.push(known(SeenDeleted, 40, 50));
        assert_eq!(explain(&events), Ok(Fate::Deleted));
    }

    #[test]
    fn a_loss_is_seen() {
        for sight in [SeenAbsent, SeenDeleted] {
            let lost = [known(Created, 0, 10), known(sight, 11, 12)];
            assert!(explain(&lost).is_err(), "{sight:?}");
        }
        let absent = [known(Created, 0, 10), known(SeenAbsent, 11, 12)];
        assert_eq!(explain(&absent), Err(Anomaly::Lost));
        // Absent also after somebody else has seen it, though its creation was not answered yet.
        let flicker = [
            known(Created, 0, 100),
            known(SeenLive, 10, 20),
            known(SeenAbsent, 30, 40),
        ];
        assert_eq!(explain(&flicker), Err(Anomaly::Lost));
        // Gone before its deletion began.
        let early = [
            known(Created, 0, 10),
            known(SeenDeleted, 11, 12),
            known(Deleted, 20, 30),
        ];
        assert_eq!(explain(&early), Err(Anomaly::Undead));
    }

    #[test]
    fn absent_while_it_is_being_made_is_no_loss() {
        let events = [known(Created, 0, 10), known(SeenAbsent, 5, 6)];
        assert_eq!(explain(&events), Ok(Fate::Live));
        let never_answered = [unknown(Created, 0), known(SeenAbsent, 500, 600)];
        assert_eq!(explain(&never_answered), Ok(Fate::Live));
    }

    #[test]
    fn live_after_a_deletion_is_seen() {
        let undead = [
            known(Created, 0, 10),
            known(Deleted, 20, 30),
            known(SeenLive, 31, 40),
        ];
        assert_eq!(explain(&undead), Err(Anomaly::Undead));
        // Live beside the deletion, then live again after somebody saw it deleted.
        let flicker = [
            known(Created, 0, 10),
            known(Deleted, 20, 100),
            known(SeenDeleted, 30, 40),
            known(SeenLive, 50, 60),
        ];
        assert_eq!(explain(&flicker), Err(Anomaly::Undead));
        let beside = [
            known(Created, 0, 10),
            known(Deleted, 20, 100),
            known(SeenLive, 30, 40),
            known(SeenDeleted, 50, 60),
        ];
        assert_eq!(explain(&beside), Ok(Fate::Deleted));
    }

    #[test]
    fn a_double_count_is_seen() {
        let twice = [
            known(Created, 0, 10),
            known(Deleted, 20, 30),
            known(Deleted, 40, 50),
        ];
        assert_eq!(explain(&twice), Err(Anomaly::DeletedTwice));
        let made = [known(Created, 0, 10), known(Created, 0, 12)];
        assert_eq!(explain(&made), Err(Anomaly::CreatedTwice));
    }

    #[test]
    fn an_unknown_deletion_may_have_happened_or_not() {
        let open = [known(Created, 0, 10), unknown(Deleted, 20)];
        assert_eq!(explain(&open), Ok(Fate::Either));
        let late = [
            known(Created, 0, 10),
            unknown(Deleted, 20),
            known(SeenLive, 500, 510),
            known(SeenDeleted, 600, 610),
        ];
        assert_eq!(explain(&late), Ok(Fate::Deleted));
        let back = [
            known(Created, 0, 10),
            unknown(Deleted, 20),
            known(SeenDeleted, 500, 510),
            known(SeenLive, 600, 610),
        ];
        assert_eq!(explain(&back), Err(Anomaly::Undead));
        let too_early = [
            known(Created, 0, 10),
            known(SeenDeleted, 11, 12),
            unknown(Deleted, 20),
        ];
        assert_eq!(explain(&too_early), Err(Anomaly::Undead));
    }

    #[test]
    fn a_repetition_explains_the_unknown_one_before_it() {
        let repeated = [
            known(Created, 0, 10),
            unknown(Deleted, 20),
            known(SeenDeleted, 40, 50),
        ];
        assert_eq!(explain(&repeated), Ok(Fate::Deleted));
        let second_won = [
            known(Created, 0, 10),
            unknown(Deleted, 20),
            known(Deleted, 40, 50),
            known(SeenLive, 30, 35),
        ];
        assert_eq!(explain(&second_won), Ok(Fate::Deleted));
    }

    #[test]
    fn nobody_made_it() {
        assert_eq!(
            explain(&[known(SeenLive, 1, 2)]),
            Err(Anomaly::NeverCreated)
        );
    }

    /// Against the definition itself: every small history is also tried moment by moment.
    #[test]
    fn agrees_with_trying_everything() {
        let whats = [Deleted, SeenLive, SeenDeleted, SeenAbsent];
        let spans = [(0, 1), (0, 3), (2, 3), (2, 5), (4, 5), (1, 4)];
        let mut others = Vec::new();
        for what in whats {
            others.extend(spans.map(|(from, to)| known(what, from, to)));
        }
        others.extend([0, 2, 4].map(|from| unknown(Deleted, from)));
        let mut tried = 0;
        for creation in [(0, 1), (0, 3), (2, 3)].map(|(from, to)| known(Created, from, to)) {
            for first in &others {
                for second in &others {
                    for third in &others {
                        let events = [creation, *first, *second, *third];
                        let found = explain(&events).is_ok();
                        assert_eq!(found, is_linearizable(&events), "{events:?}");
                        tried += 1;
                    }
                }
            }
        }
        assert_eq!(tried, 3 * 27 * 27 * 27);
    }

    /// All moments for creation and deletion, each operation anywhere in its span. Moments are
    /// doubled, and operations look between them, so that ties may fall either way.
    fn is_linearizable(events: &[Event]) -> bool {
        let deletions: Vec<Option<&Event>> = events
            .iter()
            .filter(|event| event.what == Deleted)
            .map(Some)
            .chain([None])
            .collect();
        let known_deletions = events
            .iter()
            .filter(|event| event.what == Deleted && event.returned.is_some());
        let known_deletions: Vec<&Event> = known_deletions.collect();
        (0..=6).any(|made| {
            within(&events[0], made)
                && deletions.iter().any(|deletion| {
                    let others_known = known_deletions
                        .iter()
                        .any(|known| !deletion.is_some_and(|it| std::ptr::eq(it, *known)));
                    !others_known
                        && (made..=7).any(|removed| {
                            deletion.map_or(removed == 7, |it| within(it, removed))
                                && events.iter().all(|event| fits(event, made, removed))
                        })
                })
        })
    }

    fn within(event: &Event, moment: Moment) -> bool {
        (event.invoked..=event.returned.unwrap_or(6)).contains(&moment)
    }

    /// `removed` 7: never.
    fn fits(event: &Event, made: Moment, removed: Moment) -> bool {
        (0..=6).any(|moment| {
            within(event, moment)
                && match event.what {
                    SeenAbsent => moment <= made,
                    SeenLive => made <= moment && moment <= removed,
                    SeenDeleted => removed <= 6 && removed <= moment,
                    Created | Deleted => true,
                }
        })
    }
}
