//! Percentiles of one round, and the middle of several.

/// The value below which `share` of all lie; 0.5 is the median.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place within the list")]
    let at = ((sorted.len().max(1) - 1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// One figure, as each round has it.
#[derive(Default, Clone)]
pub(crate) struct Figure(pub(crate) Vec<f64>);

impl Figure {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn median(&self) -> f64 {
        percentile(&self.0, 0.5)
    }

    pub(crate) fn lowest(&self) -> f64 {
        percentile(&self.0, 0.0)
    }

    pub(crate) fn highest(&self) -> f64 {
        percentile(&self.0, 1.0)
    }

    /// A figure made of two, round by round.
    pub(crate) fn with(&self, other: &Self, made: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, two)| made(*one, *two)).collect())
    }
}
