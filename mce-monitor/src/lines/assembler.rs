//! Puts lines together.

use super::gather::{self, Told};
use super::single;
use super::words::Words;
use crate::moment::Moment;
use crate::record::{MachineCheck, Record, Vendor};

/// What was begun and may go on in the next line.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    check: Option<(Moment, MachineCheck)>,
    told: Option<(Moment, Told)>,
    /// MCG_STATUS of an exception whose bank is on the next line, as old kernels print it.
    exception: Option<(u32, u64)>,
}

impl Assembler {
    /// Takes a line. Returns what is whole by it.
    pub(crate) fn line(&mut self, at: Moment, text: &str) -> Vec<(Moment, Record)> {
        let mut whole = Vec::new();
        if self.told.as_mut().is_some_and(|(_, told)| told.continues(text)) {
            return whole;
        }
        whole.extend(self.end_told());
        if let Some(told) = Told::begins(text) {
            self.told = Some((at, told));
            return whole;
        }
        if let Some(check) = gather::begins_check(text).or_else(|| self.old_bank(text)) {
            whole.extend(self.end_check());
            self.check = Some((at, check));
            return whole;
        }
        if let Some((_, check)) = &mut self.check
            && gather::continues_check(check, text)
        {
            if gather::ends_check(text) {
                whole.extend(self.end_check());
            }
            return whole;
        }
        if is_interlude(text) {
            return whole;
        }
        whole.extend(self.end_check());
        self.note_exception(text);
        whole.extend(single::record(text).map(|record| (at, record)));
        whole
    }

    /// Whether something was begun.
    pub(crate) fn is_waiting(&self) -> bool {
        self.check.is_some() || self.told.is_some()
    }

    /// Nothing more comes for now: what was begun is all there is.
    pub(crate) fn flush(&mut self) -> Vec<(Moment, Record)> {
        self.end_told().into_iter().chain(self.end_check()).collect()
    }

    fn end_told(&mut self) -> Option<(Moment, Record)> {
        let (at, told) = self.told.take()?;
        told.whole().map(|error| (at, Record::Firmware(error)))
    }

    fn end_check(&mut self) -> Option<(Moment, Record)> {
        let (at, check) = self.check.take()?;
        Some((at, Record::MachineCheck(check)))
    }

    /// `CPU 0: Machine Check Exception: 0000000000000004`, and the bank on a line of its own.
    fn note_exception(&mut self, text: &str) {
        let words = Words(text);
        self.exception =
            words.hex("Machine Check Exception: ").map(|mcg_status| (words.small("CPU ").unwrap_or(0), mcg_status));
    }

    /// `Bank 4: b604a00100000813 at 000000007e4f2f68`.
    fn old_bank(&mut self, text: &str) -> Option<MachineCheck> {
        let (cpu, mcg_status) = self.exception?;
        let (bank, rest) = text.strip_prefix("Bank ")?.split_once(": ")?;
        Some(MachineCheck {
            vendor: Vendor::Other,
            cpu,
            mcg_status,
            bank: bank.parse().ok()?,
            status: super::hex(rest)?,
            address: Words(rest).hex(" at ").unwrap_or(0),
            ..MachineCheck::default()
        })
    }
}

/// Lines that stand between the parts of a machine check and say nothing that is needed.
fn is_interlude(text: &str) -> bool {
    text.starts_with("[Hardware Error]: cache level") || text.starts_with("EDAC ") && text.contains("HANDLING MCE")
}
