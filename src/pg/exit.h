// How a process ends that has, or had, a Kafka client: without the exit handlers of the libraries.
//
// librdkafka's threads are not waited for at exit. OpenSSL's exit handler frees what they are using for TLS or a login at that
// moment; the process dies of a segmentation fault, and for that the postmaster restarts every process of the server.
#pragma once

namespace mrsync
{

// From here on proc_exit() ends this process as always, with all callbacks, but for the handlers of exit(). To be called
// before the first Kafka client is made; again is harmless. Never in the postmaster: its children would inherit it. May ereport.
void exitWithoutLibraries();

} // namespace mrsync
