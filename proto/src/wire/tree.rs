//! References to files that travel.

use convoke_model::TreeRef;

use super::{InvalidMessage, digest};
use crate::v1;

impl From<TreeRef> for v1::TreeRef {
    fn from(tree: TreeRef) -> Self {
        Self { sha256: tree.digest.0.to_vec().into(), files: tree.files, bytes: tree.bytes }
    }
}

impl TryFrom<v1::TreeRef> for TreeRef {
    type Error = InvalidMessage;
    fn try_from(wire: v1::TreeRef) -> Result<Self, InvalidMessage> {
        Ok(Self { digest: digest(&wire.sha256, "tree.sha256")?, files: wire.files, bytes: wire.bytes })
    }
}
