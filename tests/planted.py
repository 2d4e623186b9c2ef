"""Parts of planted mistakes, which several test files use."""

import torch

from minidistill.checks import column

# a function, with something done to it


def forgets(reference, when):
    """The reference, which accepts what it ought to refuse where `when` says so."""

    def wrong(*args, **kwargs):
        try:
            return reference(*args, **kwargs)
        except ValueError:
            if when(*args):
                return None
            raise

    return wrong


def refuses_too(reference, when):
    """The reference, which refuses valid input where `when` says so."""

    def wrong(*args, **kwargs):
        if when(*args):
            raise ValueError("nobody asked for that")
        return reference(*args, **kwargs)

    return wrong


def asserting(reference):
    """The reference, which asserts where it ought to raise ValueError."""

    def wrong(*args, **kwargs):
        try:
            return reference(*args, **kwargs)
        except ValueError as error:
            raise AssertionError(str(error)) from error

    return wrong


def then(reference, change):
    """The reference, whose answer is changed."""
    return lambda *args, **kwargs: change(reference(*args, **kwargs))


def in_place(reference, k):
    """The reference, which changes the k-th tensor that it is given, as far as torch lets it."""

    def wrong(*args, **kwargs):
        found = reference(*args, **kwargs)
        with torch.no_grad():
            args[k].mul_(1.5)
        return found

    return wrong


def stays(reference, switch):
    """The reference, after which something stays switched off."""

    def wrong(*args, **kwargs):
        found = reference(*args, **kwargs)
        switch(*args)
        return found

    return wrong


def freeze(*args):
    """For stays: the networks learn no more."""
    for net in args:
        if isinstance(net, torch.nn.Module):
            net.requires_grad_(False)


# parts of such functions


def still(z, *times):
    """A network that is asked for the refusals alone."""
    return 0 * z


def same(found, z):
    """What a network answers, refused where it has another shape than z."""
    if found.shape != z.shape:
        raise ValueError("another shape")
    return found


def per_sample(a):
    """The mean over each sample."""
    return a.reshape(len(a), -1).mean(1)


def along_the_last(c, z):
    """For column: where one number for each sample is broadcast, though along another axis."""
    return c if z.shape[-1] == len(c) else column(c, z)


def four_axes(c, z):
    """For column: of images, as people write it."""
    return c.reshape(-1, 1, 1, 1) if z.ndim < 4 else column(c, z)


def restarted(generator):
    """The generator as it was when it was made."""
    return generator and torch.Generator().manual_seed(generator.initial_seed())


def copied(generator):
    """A generator in the state of this one, which stays where it is."""
    return generator and torch.Generator().set_state(generator.get_state())
