//! From sampling and noise to privacy, and back.

use noised::accounting::{Account, Adjacency, Asked, Method, Question, Sampling, Wanted};
use noised::{Error, Result};

use crate::v1;
use crate::v1::compute_privacy_request::Asked as WireAsked;
use crate::v1::sampling::Scheme;

impl TryFrom<v1::ComputePrivacyRequest> for Question {
    type Error = Error;

    fn try_from(request: v1::ComputePrivacyRequest) -> Result<Self> {
        let v1::ComputePrivacyRequest { sampling, n, asked } = request;
        let wanted = match asked.ok_or_else(|| Error::invalid("asked", "is missing"))? {
            WireAsked::EpsilonOf(v1::EpsilonOf { noise_multiplier, delta }) => {
                Wanted::Privacy { noise_multiplier, asked: Asked::Epsilon { delta } }
            }
            WireAsked::DeltaOf(v1::DeltaOf { noise_multiplier, epsilon }) => {
                Wanted::Privacy { noise_multiplier, asked: Asked::Delta { epsilon } }
            }
            WireAsked::Target(v1::ApproximateDp { epsilon, delta }) => Wanted::Noise { epsilon, delta },
        };
        Ok(Self { sampling: sampling_from_wire(sampling), steps: n, wanted })
    }
}

impl From<Question> for v1::ComputePrivacyRequest {
    fn from(question: Question) -> Self {
        let Question { sampling, steps, wanted } = question;
        let asked = match wanted {
            Wanted::Privacy { noise_multiplier, asked: Asked::Epsilon { delta } } => {
                WireAsked::EpsilonOf(v1::EpsilonOf { noise_multiplier, delta })
            }
            Wanted::Privacy { noise_multiplier, asked: Asked::Delta { epsilon } } => {
                WireAsked::DeltaOf(v1::DeltaOf { noise_multiplier, epsilon })
            }
            Wanted::Noise { epsilon, delta } => WireAsked::Target(v1::ApproximateDp { epsilon, delta }),
        };
        Self { sampling: Some(sampling_to_wire(sampling)), n: steps, asked: Some(asked) }
    }
}

fn sampling_from_wire(sampling: Option<v1::Sampling>) -> Sampling {
    let v1::Sampling { scheme } = sampling.unwrap_or_default();
    match scheme {
        None => Sampling::None,
        Some(Scheme::Poisson(probability)) => Sampling::Poisson { probability },
        Some(Scheme::CyclicPoisson(v1::CyclicPoissonSampling { sampling_probability, bands })) => {
            Sampling::CyclicPoisson { probability: sampling_probability, bands }
        }
        Some(Scheme::FixedSize(v1::FixedSizeSampling { batch_size, examples })) => {
            Sampling::FixedSize { batch_size, examples }
        }
    }
}

fn sampling_to_wire(sampling: Sampling) -> v1::Sampling {
    let scheme = match sampling {
        Sampling::None => None,
        Sampling::Poisson { probability } => Some(Scheme::Poisson(probability)),
        Sampling::CyclicPoisson { probability, bands } => {
            let sampling_probability = probability;
            Some(Scheme::CyclicPoisson(v1::CyclicPoissonSampling { sampling_probability, bands }))
        }
        Sampling::FixedSize { batch_size, examples } => {
            Some(Scheme::FixedSize(v1::FixedSizeSampling { batch_size, examples }))
        }
    };
    v1::Sampling { scheme }
}

impl From<Account> for v1::ComputePrivacyResponse {
    fn from(account: Account) -> Self {
        let Account { epsilon, delta, noise_multiplier, lower, method, adjacency, interval, order } = account;
        let method = match method {
            Method::Gaussian => v1::AccountingMethod::Gaussian,
            Method::Pld => v1::AccountingMethod::Pld,
            Method::Rdp => v1::AccountingMethod::Rdp,
        };
        let adjacency = match adjacency {
            Adjacency::AddOrRemove => v1::Adjacency::AddOrRemove,
            Adjacency::Replace => v1::Adjacency::Replace,
        };
        let (method, adjacency) = (method.into(), adjacency.into());
        Self { epsilon, delta, noise_multiplier, method, adjacency, lower, interval, order }
    }
}

impl TryFrom<v1::ComputePrivacyResponse> for Account {
    type Error = Error;

    fn try_from(response: v1::ComputePrivacyResponse) -> Result<Self> {
        let v1::ComputePrivacyResponse {
            epsilon,
            delta,
            noise_multiplier,
            method,
            adjacency,
            lower,
            interval,
            order,
        } = response;
        let unknown = |field: &str, value: i32| Error::invalid(field, format!("is not known: {value}"));
        let method = match v1::AccountingMethod::try_from(method) {
            Ok(v1::AccountingMethod::Gaussian) => Method::Gaussian,
            Ok(v1::AccountingMethod::Pld) => Method::Pld,
            Ok(v1::AccountingMethod::Rdp) => Method::Rdp,
            Ok(v1::AccountingMethod::Unspecified) | Err(_) => return Err(unknown("method", method)),
        };
        let adjacency = match v1::Adjacency::try_from(adjacency) {
            Ok(v1::Adjacency::AddOrRemove) => Adjacency::AddOrRemove,
            Ok(v1::Adjacency::Replace) => Adjacency::Replace,
            Ok(v1::Adjacency::Unspecified) | Err(_) => return Err(unknown("adjacency", adjacency)),
        };
        Ok(Self { epsilon, delta, noise_multiplier, lower, method, adjacency, interval, order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_come_back() {
        let samplings = [
            Sampling::None,
            Sampling::Poisson { probability: 0.1 },
            Sampling::CyclicPoisson { probability: 0.1, bands: 4 },
            Sampling::FixedSize { batch_size: 3, examples: 5 },
        ];
        let wanted = [
            Wanted::Privacy { noise_multiplier: 2.0, asked: Asked::Epsilon { delta: 1e-5 } },
            Wanted::Privacy { noise_multiplier: 2.0, asked: Asked::Delta { epsilon: 1.0 } },
            Wanted::Noise { epsilon: 1.0, delta: 1e-5 },
        ];
        for sampling in samplings {
            for wanted in wanted {
                let question = Question { sampling, steps: 7, wanted };
                assert_eq!(Question::try_from(v1::ComputePrivacyRequest::from(question)), Ok(question));
                let answer = question.answer(&|| false).unwrap();
                assert_eq!(Account::try_from(v1::ComputePrivacyResponse::from(answer)), Ok(answer));
            }
        }
        let nothing = v1::ComputePrivacyRequest { sampling: None, n: 7, asked: None };
        assert!(matches!(Question::try_from(nothing), Err(Error::Invalid { field, .. }) if field == "asked"));
        assert!(Account::try_from(v1::ComputePrivacyResponse::default()).is_err());
    }
}
