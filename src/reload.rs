//! SIGHUP: kinds and tokens are read again, each by itself. What is wrong is logged, and the old one stays.
//!
//! Workers that run keep the kind that they were started with: it is part of their plan.

use std::path::Path;
use std::sync::Arc;

use log::{info, warn};

use crate::cli::resolve::token_in;
use crate::config::{QueenTokenSource, Sources};
use crate::id::Token;
use crate::kinds::Kinds;
use crate::kinds::shelf::Shelf;
use crate::latest::Latest;
use crate::relay::Relay;

/// What may change while the hive runs.
pub(crate) struct Reload {
    pub sources: Sources,
    pub shelf: Arc<Shelf>,
    pub token: Arc<Latest<Option<Token>>>,
    pub relay: Option<Arc<Relay>>,
}

impl Reload {
    /// Reads all of it again. Waits for the disk, and never for a pipe.
    pub fn again(&self) {
        self.kinds_again();
        if let Some(file) = &self.sources.token_file
            && let Some(token) = token_again("the API's token", file)
        {
            self.token.set(Some(token));
        }
        let Some(relay) = &self.relay else { return };
        match &self.sources.queen_token {
            QueenTokenSource::File(file) => {
                if let Some(token) = token_again("the queen's token", file) {
                    relay.set_token(Some(token));
                }
            }
            QueenTokenSource::Own => relay.set_token(self.token.get().as_ref().clone()),
            QueenTokenSource::Fixed => {}
        }
    }

    fn kinds_again(&self) {
        let Sources { kind_files, programs, .. } = &self.sources;
        let read = match kind_files.iter().find(|file| !file.is_file()) {
            Some(file) => Err(format!("{}: is no file any more", file.display())),
            None => Kinds::load(kind_files, programs).map_err(|e| e.to_string()),
        };
        match read {
            Ok(kinds) if kinds == self.shelf.given() => info!("kinds read again changed=false"),
            Ok(kinds) => {
                info!("kinds read again changed=true count={}", kinds.iter().len());
                self.shelf.give(kinds);
            }
            Err(why) => warn!("kinds not read again, the old ones stay reason={why:?}"),
        }
    }
}

/// The token that `file` holds now.
fn token_again(what: &str, file: &Path) -> Option<Token> {
    let read = if file.is_file() {
        token_in(file).map_err(|e| e.message)
    } else {
        Err(format!("token file {file:?}: is no file any more"))
    };
    match read {
        Ok(token) => {
            info!("{what} read again token={token}");
            Some(token)
        }
        Err(why) => {
            warn!("{what} not read again, the old one stays reason={why:?}");
            None
        }
    }
}
