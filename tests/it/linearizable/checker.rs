//! Is there an order of the calls that respects what came before what, and in which every answer is
//! right? Wing and Gong's search with Lowe's memory of where it was before.

use std::collections::{BTreeMap, HashSet};

use super::history::{Answer, Call, Count, Event, Image, Moment, Slot};

/// Holds each image's history against the specification, and the counts against the images.
///
/// # Errors
/// What cannot be explained.
pub(super) fn check(events: &[Event], counts: &[Count]) -> Result<(), String> {
    let mut by_slot: BTreeMap<Slot, Vec<Event>> = BTreeMap::new();
    for event in events {
        by_slot.entry(event.slot).or_default().push(*event);
    }
    for (slot, mut events) in by_slot {
        events.sort_by_key(|event| event.invoked);
        check_image(&events).map_err(|wrong| format!("image {slot}: {wrong}"))?;
    }
    check_counts(events, counts)
}

/// Which calls have taken effect, a bit each.
type Done = Vec<u64>;

fn has(done: &Done, index: usize) -> bool {
    done[index / 64] & (1 << (index % 64)) != 0
}

fn with(done: &Done, index: usize) -> Done {
    let mut done = done.clone();
    done[index / 64] |= 1 << (index % 64);
    done
}

/// One image's events, ascending by `invoked`.
fn check_image(events: &[Event]) -> Result<(), String> {
    let none: Done = vec![0; events.len().div_ceil(64)];
    let mut seen = HashSet::from([(none.clone(), Image::Absent)]);
    let mut open = vec![(none.clone(), Image::Absent)];
    let mut furthest = (0, none, Image::Absent);
    while let Some((done, image)) = open.pop() {
        let left = || events.iter().enumerate().filter(|(at, _)| !has(&done, *at));
        if left().all(|(_, event)| event.answer.is_none()) {
            return Ok(());
        }
        let explained = done.iter().map(|word| word.count_ones()).sum();
        if explained > furthest.0 {
            furthest = (explained, done.clone(), image);
        }
        // Whatever takes effect next began before everything that is left had returned.
        let first_return = left().map(|(_, event)| event.returned).min();
        let first_return = first_return.unwrap_or(Moment::MAX);
        let next = || left().take_while(|(_, event)| event.invoked <= first_return);
        // What changes nothing and is right here loses nothing by being here.
        let here = next().find(|(_, event)| {
            let after = event.answer.map(|answer| image.after(event.call, answer));
            after == Some(Some(image))
        });
        if let Some((at, _)) = here {
            open.push((with(&done, at), image));
            continue;
        }
        for (at, event) in next() {
            let after = match event.answer {
                Some(answer) => image.after(event.call, answer),
                // Without an effect it need not be ordered at all.
                None => Some(image.after_unseen(event.call)).filter(|after| *after != image),
            };
            let Some(after) = after else { continue };
            let reached = (with(&done, at), after);
            if seen.insert(reached.clone()) {
                open.push(reached);
            }
        }
    }
    let (explained, done, image) = furthest;
    let left = events.iter().enumerate().filter(|(at, _)| !has(&done, *at));
    let left: Vec<_> = left.map(|(_, event)| event).collect();
    Err(format!(
        "no order explains its {} calls; after {explained} of them it is {image:?}, and then come {left:#?}\nall: {events:#?}",
        events.len()
    ))
}

/// When an image was certainly there, and when it may have been.
#[derive(Debug, Default)]
struct Life {
    /// Contents that it may have.
    may_be: Vec<u8>,
    /// The content that it has, and when that was first known.
    is: Option<(u8, Moment)>,
    first_asked_for: Option<Moment>,
    first_asked_to_go: Option<Moment>,
    known_gone: Option<Moment>,
}

impl Life {
    fn take_in(&mut self, event: &Event) {
        let earlier = |known: Option<Moment>, moment| Some(known.map_or(moment, |m| m.min(moment)));
        match (event.call, event.answer) {
            (_, Some(Answer::KeyReused | Answer::UnknownContent | Answer::Unknown)) => {}
            (Call::Upload(content) | Call::Refer(content), answer) => {
                self.may_be.push(content);
                self.first_asked_for = earlier(self.first_asked_for, event.invoked);
                let since = self
                    .is
                    .map_or(event.returned, |(_, at)| at.min(event.returned));
                if answer.is_some() {
                    self.is = Some((content, since));
                }
            }
            (Call::Delete, answer) => {
                self.first_asked_to_go = earlier(self.first_asked_to_go, event.invoked);
                if answer.is_some() {
                    self.known_gone = earlier(self.known_gone, event.returned);
                }
            }
            (Call::Read, _) => {}
        }
    }

    /// Live with this content during all of the interval.
    fn is_certain(&self, content: u8, from: Moment, to: Moment) -> bool {
        let there = self
            .is
            .is_some_and(|(is, since)| is == content && since < from);
        there && self.first_asked_to_go.is_none_or(|asked| asked > to)
    }

    /// Possibly live with this content at some time in the interval.
    fn is_possible(&self, content: u8, from: Moment, to: Moment) -> bool {
        let content_fits = match self.is {
            Some((is, _)) => is == content,
            None => self.may_be.contains(&content),
        };
        let begun = self.first_asked_for.is_some_and(|asked| asked < to);
        content_fits && begun && self.known_gone.is_none_or(|gone| gone > from)
    }
}

/// Counts lie between the images that were certainly live and those that may have been; content that
/// an image certainly had was known.
fn check_counts(events: &[Event], counts: &[Count]) -> Result<(), String> {
    let mut lives: BTreeMap<Slot, Life> = BTreeMap::new();
    for event in events {
        lives.entry(event.slot).or_default().take_in(event);
    }
    for count in counts {
        let (from, to) = (count.invoked, count.returned);
        let certain = lives
            .values()
            .filter(|life| life.is_certain(count.content, from, to));
        let possible = lives
            .values()
            .filter(|life| life.is_possible(count.content, from, to));
        let (least, most) = (certain.count(), possible.count());
        if !(least..=most).contains(&count.references) {
            return Err(format!("{count:?}, where there were {least} to {most}"));
        }
    }
    for event in events {
        let (Call::Refer(content), Some(Answer::UnknownContent)) = (event.call, event.answer)
        else {
            continue;
        };
        let (from, to) = (event.invoked, event.returned);
        let holder = lives
            .iter()
            .find(|(_, life)| life.is_certain(content, from, to));
        if let Some((slot, _)) = holder {
            return Err(format!(
                "{event:?} of image {}, which image {slot} had",
                event.slot
            ));
        }
    }
    Ok(())
}
