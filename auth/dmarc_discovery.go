package auth

// A discovery is what is known of an author domain, whoever sends the mail.
type discovery struct {
	// record is the one to be applied, and domain where it was found. nil: there is none.
	record *DMARCRecord
	domain string
	policy Policy // evaluated
	err    error  // not known whether there is a record, or which one

	absent    bool  // the author domain does not exist; only known where the policy depends on it
	absentErr error // not known although the policy depends on it
}

// discover chooses the record for an author domain. https://www.rfc-editor.org/rfc/rfc9989#section-4.10.1
func (e *Evaluation) discover(author string) discovery {
	d := e.policyRecord(author)
	if d.record == nil {
		return d
	}
	own := d.domain == author
	existing := d.record.policyFor(own, false)
	if d.record.policyFor(own, true) != existing {
		var there bool
		there, d.absentErr = exists(e.lookups.ctx, e.lookups.resolver, author)
		d.absent = !there && d.absentErr == nil
	}
	d.policy = d.record.policyFor(own, d.absent)
	return d
}

// policyRecord looks, in this order, at the author domain, at its organizational domain, and at the public suffix.
func (e *Evaluation) policyRecord(author string) discovery {
	own, err := e.record(author)
	if err != nil {
		return discovery{err: err}
	}
	if own != nil {
		return discovery{record: own, domain: author}
	}
	steps, err := e.steps(author, forAuthor)
	if err != nil {
		return discovery{err: err}
	}
	org, _ := e.orgDomain(author, forAuthor) // there is no error where there was none before
	for _, s := range steps {
		if s.record != nil && (s.name == org || within(org, s.name) && s.record.PSD == PSDYes) {
			return discovery{record: s.record, domain: s.name}
		}
	}
	return discovery{}
}

// record is what stands at the author domain.
func (e *Evaluation) record(name string) (*DMARCRecord, error) {
	return e.lookups.wait(e.lookups.ask(name, forAuthor))
}

// ask asks for all that steps may want.
func (e *Evaluation) ask(domain string, why purpose) []*answer {
	var answers []*answer
	for _, name := range e.dmarc.names(domain) {
		answers = append(answers, e.lookups.ask(name, why))
	}
	return answers
}

// steps walks from domain: up to a record that says "psd", or to the top. With a list of suffixes it takes both steps
// that there may be. The questions are asked all at once, since one too many costs less than one after the other.
func (e *Evaluation) steps(domain string, why purpose) ([]walkStep, error) {
	var steps []walkStep
	names := e.dmarc.names(domain)
	for i, a := range e.ask(domain, why) {
		record, err := e.lookups.wait(a)
		if err != nil {
			return nil, err
		}
		step := walkStep{name: names[i], record: record}
		steps = append(steps, step)
		if step.ends() && e.dmarc.Discovery != PSL {
			break
		}
	}
	return steps, nil
}

// orgDomain is the organizational domain of a name.
func (e *Evaluation) orgDomain(name string, why purpose) (string, error) {
	if e.dmarc.Discovery == PSL {
		return e.dmarc.Suffixes.OrgDomain(name), nil
	}
	steps, err := e.steps(name, why)
	if err != nil {
		return "", err
	}
	return organizational(steps), nil
}
