//! A peer that has the key and still says what it must not say: the image stays whole, no proof comes of it, and two that keep
//! to the protocol again find back to each other.

use kemari_core::Image;
use kemari_protocol::{Chunk, Manifest, Message};

use crate::handover::handing_over;
use crate::pair::protected;
use crate::world::{ALPHA, BETA, Item, World};

#[derive(Clone, Copy, Debug)]
enum Wrong {
    Altered,
    Twice,
    Swapped,
}

impl World {
    /// Does this to what arrives next, at one node or the other.
    fn spoil_next(&mut self, wrong: Wrong) {
        self.outside.honest = false;
        let link = &mut self.outside.link;
        let Some(wire) = [BETA, ALPHA].into_iter().find(|node| !link.wire(*node).is_empty()) else { return };
        let wire = link.wire(wire);
        let Some(Item::Message(message)) = wire.pop_front() else { return };
        match wrong {
            Wrong::Altered => wire.push_front(Item::Message(altered(message))),
            Wrong::Twice => {
                wire.push_front(Item::Message(message.clone()));
                wire.push_front(Item::Message(message));
            }
            Wrong::Swapped => wire.insert(wire.len().min(1), Item::Message(message)),
        }
    }
}

/// Good frames, wrong words.
fn altered(message: Message) -> Message {
    let other = |image: Image| Image { checksum: image.checksum ^ 1, ..image };
    match message {
        Message::Manifest(manifest) => {
            Message::Manifest(Manifest { state_bytes: manifest.state_bytes - 1, ..manifest })
        }
        Message::Pages(chunk) => {
            let mut data = chunk.data().to_vec();
            data[0] ^= 1;
            Message::Pages(Chunk::new(chunk.runs().to_vec(), data).expect("as long as before"))
        }
        Message::State(mut bytes) => {
            bytes[0] ^= 1;
            Message::State(bytes)
        }
        Message::Ack(image) => Message::Ack(other(image)),
        Message::Yield { image, promote } => Message::Yield { image: other(image), promote },
        message => message,
    }
}

#[test]
fn wrong_words_at_any_step_tear_nothing_and_prove_nothing() {
    for wrong in [Wrong::Altered, Wrong::Twice, Wrong::Swapped] {
        for steps in 0..30 {
            let mut world = protected();
            world.run(steps);
            world.spoil_next(wrong);
            world.run(20);
            world.must_recover();
        }
    }
}

#[test]
fn wrong_words_at_any_step_of_a_handover_fork_nothing() {
    for wrong in [Wrong::Altered, Wrong::Twice, Wrong::Swapped] {
        for steps in 0..20 {
            let mut world = handing_over(true);
            (0..steps).for_each(|_| world.step());
            world.spoil_next(wrong);
            (0..20).for_each(|_| world.step());
            world.must_recover();
            world.must_not_run_twice();
        }
    }
}
