//! Signals of the operating system, and what they mean to ferry.

use std::ffi::c_int;
use std::fs::File;
use std::future::pending;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::iterator::exfiltrator::origin::Origin;
use tokio::sync::mpsc;
use tracing::{field, info};

/// What ferry is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To stop, politely.
    Stop,
    /// To stop now: asked for the second time.
    StopNow,
    /// To read its configuration again. The signal goes to the children, too, that want it.
    Reload,
    /// To hand a signal on to the children that want it.
    Forward(Signal),
    /// To stand still, with its children.
    Freeze,
    /// To go on, with its children.
    Thaw,
}

/// What SIGHUP means, which depends on who started ferry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HangUp {
    /// A service manager, without a terminal: reload.
    Reload,
    /// Somebody at a terminal: its window was closed.
    Stop,
    /// `nohup`: nothing; the signal stays ignored.
    Ignored,
}

/// Turns signals into what is asked for. The one place that counts.
#[derive(Debug)]
struct Interpreter {
    hang_up: HangUp,
    /// The kernel does not stop PID 1, so its children are not frozen either: nobody would thaw them.
    is_init: bool,
    asked_to_stop: bool,
}

impl Interpreter {
    fn of_this_process() -> Self {
        // Answered by the kernel, for any process that has a controlling terminal, whatever its descriptors are.
        let has_terminal = File::open("/dev/tty").is_ok();
        let hang_up = match (is_ignored(libc::SIGHUP), has_terminal) {
            (true, _) => HangUp::Ignored,
            (false, true) => HangUp::Stop,
            (false, false) => HangUp::Reload,
        };
        Self { hang_up, is_init: Pid::this().as_raw() == 1, asked_to_stop: false }
    }

    /// What to listen for. PIPE is not in it: Rust's runtime ignores it from the start.
    fn signals(&self) -> Vec<c_int> {
        let mut signals = vec![
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGTSTP,
            libc::SIGCONT,
        ];
        if self.hang_up != HangUp::Ignored {
            signals.push(libc::SIGHUP);
        }
        signals
    }

    fn on(&mut self, signal: Signal) -> Option<Asked> {
        match signal {
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => {
                let again = std::mem::replace(&mut self.asked_to_stop, true);
                Some(if again { Asked::StopNow } else { Asked::Stop })
            }
            // Never a second request: the kernel and the shell each send one when a terminal goes.
            Signal::SIGHUP => match self.hang_up {
                HangUp::Reload => Some(Asked::Reload),
                HangUp::Stop => (!std::mem::replace(&mut self.asked_to_stop, true)).then_some(Asked::Stop),
                HangUp::Ignored => None,
            },
            Signal::SIGUSR1 | Signal::SIGUSR2 => Some(Asked::Forward(signal)),
            Signal::SIGTSTP => (!self.is_init).then_some(Asked::Freeze),
            Signal::SIGCONT => Some(Asked::Thaw),
            _ => None,
        }
    }
}

/// What the operating system asks for, one after another.
#[derive(Debug)]
pub struct Signals {
    asked: mpsc::UnboundedReceiver<Asked>,
    /// Set by SIGCONT's handler; cleared where that was looked at and no stop was still to come.
    continued: Arc<AtomicBool>,
    /// Whether a SIGTSTP has been told of, and [`Signals::stand_still`] is still to come.
    owed: Arc<Mutex<bool>>,
}

impl Signals {
    /// Starts to listen, on a thread of its own. To be called before the first child is started: from here on no signal
    /// ends ferry by itself.
    pub fn listen() -> io::Result<Self> {
        let mut interpreter = Interpreter::of_this_process();
        // Before the next line, so that handlers run in this order: where the signal is in a batch, the flag was up.
        let continued = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGCONT, Arc::clone(&continued))?;
        let mut signals = SignalsInfo::<WithOrigin>::new(interpreter.signals())?;
        let owed = Arc::new(Mutex::new(false));
        let (tell, asked) = mpsc::unbounded_channel();
        let (flag, is_owed) = (Arc::clone(&continued), Arc::clone(&owed));
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while !tell.is_closed() {
                let batch: Vec<Origin> = signals.wait().collect();
                // Those that wait together come without their order. Whoever sent both meant the last one, and to go on
                // is the one that does no harm.
                let goes_on = batch.iter().any(|origin| origin.signal == libc::SIGCONT);
                {
                    let owed = is_owed.lock().unwrap_or_else(PoisonError::into_inner);
                    // Who is still to stop must find it, however many batches later.
                    if goes_on && !*owed {
                        flag.store(false, Ordering::SeqCst);
                    }
                }
                for origin in batch.iter().filter(|origin| !(goes_on && origin.signal == libc::SIGTSTP)) {
                    let Ok(signal) = Signal::try_from(origin.signal) else { continue };
                    let sender = origin.process.map(|process| process.pid);
                    let asks = interpreter.on(signal);
                    info!(%signal, sender, asks = asks.map(field::debug), "got a signal");
                    if let Some(asks) = asks {
                        if asks == Asked::Freeze {
                            *is_owed.lock().unwrap_or_else(PoisonError::into_inner) = true;
                        }
                        let _ = tell.send(asks);
                    }
                }
            }
        })?;
        Ok(Self { asked, continued, owed })
    }

    /// The next one. Safe to be dropped and called again.
    pub async fn recv(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            // The thread lives as long as this does.
            None => pending().await,
        }
    }

    /// Stops this process where it stands, until SIGCONT; unless that has come already, since nobody would send it
    /// again. (Between the look and the stop lies a microsecond; whoever hits that sends a second one.)
    pub fn stand_still(&self) {
        let came = {
            let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
            *owed = false;
            self.continued.swap(false, Ordering::SeqCst)
        };
        if !came {
            // It cannot fail for one's own process.
            let _ = nix::sys::signal::raise(Signal::SIGSTOP);
        }
    }
}

fn is_ignored(signal: c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    #[expect(unsafe_code, reason = "nix can ask for the present disposition only by changing it")]
    // SAFETY: asks only; the structure is written by the call, and zeroes are a valid value of it.
    let now = unsafe {
        libc::sigaction(signal, ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(hang_up: HangUp, is_init: bool, signals: &[Signal]) -> Vec<Option<Asked>> {
        let mut interpreter = Interpreter { hang_up, is_init, asked_to_stop: false };
        signals.iter().map(|signal| interpreter.on(*signal)).collect()
    }

    #[test]
    fn the_first_request_stops_and_the_second_kills_whichever_they_are() {
        for pair in [[Signal::SIGTERM, Signal::SIGTERM], [Signal::SIGINT, Signal::SIGTERM], [Signal::SIGQUIT; 2]] {
            assert_eq!(asked(HangUp::Reload, false, &pair), [Some(Asked::Stop), Some(Asked::StopNow)]);
        }
    }

    #[test]
    fn a_closed_window_stops_once_and_a_service_reloads() {
        use Signal::{SIGHUP, SIGINT};
        assert_eq!(
            asked(HangUp::Stop, false, &[SIGHUP, SIGHUP, SIGINT]),
            [Some(Asked::Stop), None, Some(Asked::StopNow)]
        );
        assert_eq!(asked(HangUp::Reload, false, &[SIGHUP, SIGHUP]), [Some(Asked::Reload); 2]);
        assert_eq!(asked(HangUp::Ignored, false, &[SIGHUP]), [None]);
        assert!(
            !Interpreter { hang_up: HangUp::Ignored, is_init: false, asked_to_stop: false }
                .signals()
                .contains(&libc::SIGHUP)
        );
    }

    #[test]
    fn freezing_is_for_processes_that_the_kernel_would_stop() {
        use Signal::{SIGCONT, SIGTSTP, SIGUSR1};
        assert_eq!(
            asked(HangUp::Reload, false, &[SIGTSTP, SIGCONT, SIGUSR1]),
            [Some(Asked::Freeze), Some(Asked::Thaw), Some(Asked::Forward(SIGUSR1))]
        );
        assert_eq!(asked(HangUp::Reload, true, &[SIGTSTP]), [None]);
    }
}
