use std::io;

use rustls::CertificateError;

/// What to do about a certificate of the other side that is not valid now: one of the two clocks is
/// wrong more often than the certificate is. `None` for any other failure.
pub fn hint_about_time(error: &io::Error) -> Option<&'static str> {
    let Some(rustls::Error::InvalidCertificate(why)) = error.get_ref()?.downcast_ref() else {
        return None;
    };
    match why {
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Some("compare the clocks of both machines: date -u; the one here is behind")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Some(
            "compare the clocks of both machines: date -u; if they agree, the other side needs a new \
             certificate",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_valid_now_points_at_the_clocks() {
        let said = |why| {
            let error = rustls::Error::InvalidCertificate(why);
            hint_about_time(&io::Error::new(io::ErrorKind::InvalidData, error))
        };
        assert!(said(CertificateError::NotValidYet).is_some_and(|hint| hint.contains("behind")));
        assert!(said(CertificateError::Expired).is_some_and(|hint| hint.contains("date -u")));
        assert_eq!(said(CertificateError::UnknownIssuer), None);
        assert_eq!(hint_about_time(&io::ErrorKind::ConnectionRefused.into()), None);
    }
}
