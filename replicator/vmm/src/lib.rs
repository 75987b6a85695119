//! The guest: KVM VM and vCPUs, memory and dirty tracking, boot, save and restore.
