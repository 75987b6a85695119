//! What a machine needs of this host, looked at one by one: what [`Machine::new`](crate::Machine::new) would refuse is refused
//! here for the same reason, but nothing is made or kept.

use kemari_devices::{Disk, Images, Net, Serial};

use crate::devices::{disk_options, slots};
use crate::{ConsoleConfig, DiskConfig, Error, MachineConfig, NicConfig, boot, kvm};

/// KVM.
///
/// # Errors
/// It is not there, not for this user, or lacks something.
pub fn host() -> Result<(), Error> {
    kvm::open().map(drop)
}

/// Kernel, initial RAM disk and command line: they are loaded into memory of their own.
///
/// # Errors
/// They cannot be read, or the guest cannot begin with them.
pub fn boot(config: &MachineConfig) -> Result<(), Error> {
    boot::rehearse(config, &slots(config)?)
}

/// A network card's tap.
///
/// # Errors
/// It does not exist, is in use or is none.
pub fn nic(index: usize, config: &NicConfig) -> Result<(), Error> {
    Net::check(&config.tap).map_err(|source| Error::Net { index, source })
}

/// The disks' images, one answer for each.
#[must_use]
pub fn disks(configs: &[DiskConfig]) -> Vec<Result<(), Error>> {
    let mut images = Images::default();
    let mut look = |config: &DiskConfig| images.add(Disk::check(&disk_options(config))?, &config.path);
    let looked = |(index, config)| look(config).map_err(|source| Error::Disk { index, source });
    configs.iter().enumerate().map(looked).collect()
}

/// Where the console goes.
///
/// # Errors
/// It cannot be made.
pub fn console(config: &ConsoleConfig) -> Result<(), Error> {
    Serial::check(&config.sink).map_err(Error::Console)
}
