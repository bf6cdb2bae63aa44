// librdkafka's mock cluster as a program: a Kafka for where there is none. Volatile, and it keeps some 5 MB per topic.
//
//   mockbroker ADDRESS-FILE TOPIC...
//
// Writes host:port to ADDRESS-FILE once it answers. The topics get one partition each; one that is not named here would
// be made by its first use, with four. SIGUSR1 cuts the broker off, SIGUSR2 brings it back with its data: the lab's
// `kafka stop` and `start`. SIGTERM ends it.
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <csignal>
#include <cstdio>
#include <string>

int main(int argc, char **argv)
{
	if (argc < 2 || argv[1][0] == '-')
	{
		fprintf(stderr, "usage: %s ADDRESS-FILE TOPIC...\n", argv[0]);
		return 2;
	}
	sigset_t mine;
	sigfillset(&mine);
	sigprocmask(SIG_BLOCK, &mine, nullptr); // before the cluster's threads are made: sigwait below takes them all

	char reason[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_conf_set_log_cb(conf, nullptr); // this client has no broker and would say so
	rd_kafka_t *client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, reason, sizeof reason);
	rd_kafka_mock_cluster_t *cluster = client ? rd_kafka_mock_cluster_new(client, 1) : nullptr;
	if (!cluster)
	{
		fprintf(stderr, "mockbroker: cannot make a cluster: %s\n", reason);
		return 1;
	}
	for (int i = 2; i < argc; i++)
		if (auto err = rd_kafka_mock_topic_create(cluster, argv[i], 1, 1))
		{
			fprintf(stderr, "mockbroker: topic %s: %s\n", argv[i], rd_kafka_err2str(err));
			return 1;
		}

	// Renamed into place: who waits for the file must not read half of it.
	std::string path = argv[1], half = path + ".new";
	FILE *file = fopen(half.c_str(), "w");
	if (!file || fprintf(file, "%s\n", rd_kafka_mock_cluster_bootstraps(cluster)) < 0 || fclose(file) != 0 ||
		rename(half.c_str(), path.c_str()) != 0)
	{
		perror(path.c_str());
		return 1;
	}

	for (int got = 0;;)
	{
		sigwait(&mine, &got);
		switch (got)
		{
			case SIGUSR1:
				rd_kafka_mock_broker_set_down(cluster, 1);
				break;
			case SIGUSR2:
				rd_kafka_mock_broker_set_up(cluster, 1);
				break;
			case SIGTERM:
			case SIGINT:
				return 0;
			default:
				break;
		}
	}
}
